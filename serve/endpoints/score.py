"""POST /score, /v1/score, /rerank, /v1/rerank, /v2/rerank (docs/http.md 7 and 8)."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers import score_request
from ...runtime.answers.params import PoolingParams
from ..context import Context
from ..models.registry import Served
from ..responses import ranking, scores
from ..schema import vllm
from ..settings import Settings

PAIRS = {
    vllm.ScoreQueriesDocuments: ("queries", "documents"),
    vllm.ScoreQueriesItems: ("queries", "items"),
    vllm.ScoreData: ("data_1", "data_2"),
    vllm.ScoreTexts: ("text_1", "text_2"),
}


async def score(request: Request, context: Context, served: Served, record: Any) -> Response:
    left, right = PAIRS[type(record)]
    first, second = plain(getattr(record, left), served), plain(getattr(record, right), served)
    context.log_inputs(
        "score", request, record, served, [alone(first, record, left), alone(second, record, right)]
    )

    def start(deadline_s: float | None) -> Any:
        return served.model.start_score(
            first, second, deadline_s=deadline_s, **options(record, served, context.settings)
        )

    return await context.workshop.answer(
        request, served, start, partial(scores, request=request, record=record, served=served)
    )


async def rerank(request: Request, context: Context, served: Served, record: vllm.Rerank) -> Response:
    (query,), documents = plain([record.query], served), plain(record.documents, served)
    if context.settings.log_requests:
        context.log_inputs("rerank", request, record, served, [query, documents])
    start = partial(
        served.model.start_rerank,
        query,
        documents,
        top_n=record.top_n or record.top_k,
        **rank_options(record, served, context.settings),
    )
    return await context.workshop.answer(
        request, served, start, partial(ranking, request=request, record=record, served=served)
    )


def plain(items: Any, served: Served) -> list[str]:
    """The texts of one item or of a list. Raises InputError for an item with a part that is no text."""
    return [text_of(item, served) for item in (items if isinstance(items, list) else [items])]


def text_of(item: Any, served: Served) -> str:
    match item:
        case vllm.Content():
            return score_request.text_of(asdict(item), served.manifest)
        case vllm.TextItem():
            return item.text
        case _:
            return item


def alone(texts: list[str], record: Any, name: str) -> Any:
    """The text itself where the field `name` was sent without a list."""
    return texts if isinstance(getattr(record, name), list) else texts[0]


def rank_options(record: vllm.Rerank, served: Served, settings: Settings) -> dict[str, Any]:
    """`options` for a ranking, where limits of one side above the model's own are lowered to it.

    Haystack's client always sends 4096 tokens for a document, whatever the model reads.
    """
    values, most = options(record, served, settings), served.model.max_tokens
    if record.max_tokens_per_query >= most:
        values["max_tokens_per_query"] = 0
    if record.max_tokens_per_doc >= most:
        if served.manifest.scoring == "cross-encoder":
            values |= {"max_tokens_per_doc": 0, "cut_document": True}
            if record.truncate_prompt_tokens is None:
                values["truncate_prompt_tokens"] = -1
        else:
            encoder = served.model.preparation.encoder
            values["max_tokens_per_doc"] = max(most - len(encoder.before) - len(encoder.after), 1)
    return values


def options(record: Any, served: Served, settings: Settings) -> dict[str, Any]:
    """The keyword arguments of `start_score` and `start_rerank` that both routes have."""
    values: dict[str, Any] = {
        "pooling_params": PoolingParams(use_activation=record.use_activation),
        "template_kwargs": record.chat_template_kwargs,
        "instruction": record.instruction,
        "max_tokens_per_query": record.max_tokens_per_query,
        "max_tokens_per_doc": record.max_tokens_per_doc,
        "truncate_prompt_tokens": record.truncate_prompt_tokens,
        "truncation_side": record.truncation_side,
        "priority": record.priority,
    }
    if record.truncate_documents:
        values["cut_document"] = True
        if record.truncate_prompt_tokens is None:
            values["truncate_prompt_tokens"] = -1
    return values | style(served, settings)


def style(served: Served, settings: Settings) -> dict[str, Any]:
    """How the texts of a score are prepared. The template of --chat-template is for cross-encoders only."""
    templated = settings.chat_template is not None
    values: dict[str, Any] = {
        "preparation": score_request.style(served.manifest, settings.score_preparation, templated=templated)
    }
    if served.manifest.scoring == "cross-encoder" and templated:
        values["chat_template"] = settings.chat_template
    return values
