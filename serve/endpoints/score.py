"""POST /score, /v1/score, /rerank, /v1/rerank, /v2/rerank (docs/http.md 7 and 8)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime import comparison
from ...runtime.outputs import Outputs, Ranking
from ...runtime.params import PoolingParams
from .. import schemas
from ..answers import Json, answer_id, listed
from ..context import Context, context
from ..reading import form, read, read_json
from ..registry import Served
from ..work import Times
from . import tei

PAIRS = {
    schemas.ScoreQueriesDocuments: ("queries", "documents"),
    schemas.ScoreQueriesItems: ("queries", "items"),
    schemas.ScoreData: ("data_1", "data_2"),
    schemas.ScoreTexts: ("text_1", "text_2"),
}


async def score(request: Request) -> Response:
    context(request).require("score")
    return await answer_score(request, await read(request, schemas.SCORE))


async def rerank(request: Request) -> Response:
    context(request).require("score")
    value = await read_json(request)
    if type(value) is dict and value.get("texts") is not None and value.get("documents") is None:
        return await tei.rerank(request, value)
    return await answer_rerank(request, await form(request, schemas.RERANK, value))


async def answer_score(request: Request, asked: Any) -> Response:
    here = context(request)
    served = here.registry.able(asked.model, "score", "Score")
    left, right = PAIRS[type(asked)]
    first, second = plain(getattr(asked, left), served), plain(getattr(asked, right), served)
    here.log_inputs("score", request, asked, served, [alone(first, asked, left), alone(second, asked, right)])
    made, times = await here.workshop.run(
        request, served, lambda limit: served.model.start_score(first, second, deadline_s=limit, **options(asked, served, here))
    )

    def write() -> Response:
        data = []
        for index, one in enumerate(made.requests):
            told = {"index": index, "object": "score", "score": one.outputs.score}
            if asked.truncate_documents:
                told["truncated"] = one.truncated
            data.append(told)
        content = listed(answer_id("score", request, asked), served.told_name, data, tokens_of(made, times, served))
        return Json(content, headers=here.headers(times, made))

    return await here.written(served, made.requests, write)


async def answer_rerank(request: Request, asked: Any) -> Response:
    here = context(request)
    served = here.registry.able(asked.model, "score", "Rerank")
    (query,), given = plain([asked.query], served), plain(asked.documents, served)
    sent = asked.documents if isinstance(asked.documents, list) else [asked.documents]
    here.log_inputs("rerank", request, asked, served, [query, given])
    top_n, options = asked.top_n or asked.top_k, rank_options(asked, served, here)
    ranking, times = await here.workshop.run(
        request, served, lambda limit: served.model.start_rerank(query, given, top_n=top_n, deadline_s=limit, **options)
    )

    def write() -> Response:
        results = []
        for ranked in ranking:
            result: dict[str, Any] = {"index": ranked.index}
            if asked.return_documents:
                result["document"] = document(sent[ranked.index])
            result["relevance_score"] = ranked.score
            if asked.truncate_documents:
                result["truncated"] = ranked.truncated
            results.append(result)
        tokens = tokens_of(ranking, times, served)
        content = {
            "id": answer_id("rerank", request, asked),
            "model": served.told_name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results,
        }
        return Json(content, headers=here.headers(times, ranking))

    return await here.written(served, ranking, write)


def tokens_of(made: Outputs[Any] | Ranking, times: Times, served: Served) -> int:
    """What usage counts: the joint prompts of a cross-encoder; else what was computed, one query for many documents once (vLLM 0.32)."""
    return made.prompt_tokens if served.manifest.scoring == "cross-encoder" else times.tokens


def plain(items: Any, served: Served) -> list[str]:
    """Texts; an item of several parts is refused by a model that reads text only, unless they are texts."""
    return [text_of(item, served) for item in (items if isinstance(items, list) else [items])]


def text_of(item: Any, served: Served) -> str:
    match item:
        case schemas.Content():
            return comparison.text_of(asdict(item), served.manifest)
        case schemas.TextItem():
            return item.text
        case _:
            return item


def alone(texts: list[str], asked: Any, name: str) -> Any:
    """The one text where no list was sent."""
    return texts if isinstance(getattr(asked, name), list) else texts[0]


def document(item: Any) -> dict[str, Any]:
    """A document as results show it: its text, or its parts as they were sent."""
    parts = asdict(item)["content"] if isinstance(item, schemas.Content) else None
    return {"text": None if parts is not None else getattr(item, "text", item), "multi_modal": parts}


def rank_options(asked: schemas.Rerank, served: Served, here: Context) -> dict[str, Any]:
    """`options`, with limits of one side that are none for this model lowered to its own: Haystack's client always sends 4096 tokens
    for a document, whatever the model reads."""
    made, most = options(asked, served, here), served.model.max_tokens
    if asked.max_tokens_per_query >= most:
        made["max_tokens_per_query"] = 0
    if asked.max_tokens_per_doc >= most:
        if served.manifest.scoring == "cross-encoder":
            made |= {"max_tokens_per_doc": 0, "cut_document": True}
            if asked.truncate_prompt_tokens is None:
                made["truncate_prompt_tokens"] = -1
        else:
            encoder = served.model.preparation.encoder
            made["max_tokens_per_doc"] = max(most - len(encoder.before) - len(encoder.after), 1)
    return made


def options(asked: Any, served: Served, here: Context) -> dict[str, Any]:
    made: dict[str, Any] = {
        "pooling_params": PoolingParams(use_activation=asked.use_activation),
        "template_kwargs": asked.chat_template_kwargs,
        "instruction": asked.instruction,
        "max_tokens_per_query": asked.max_tokens_per_query,
        "max_tokens_per_doc": asked.max_tokens_per_doc,
        "truncate_prompt_tokens": asked.truncate_prompt_tokens,
        "truncation_side": asked.truncation_side,
        "priority": asked.priority,
    }
    if asked.truncate_documents:
        made["cut_document"] = True
        if asked.truncate_prompt_tokens is None:
            made["truncate_prompt_tokens"] = -1
    return made | here.score_style(served)
