"""The wire of Hugging Face's text-embeddings-inference: /embed, /embed_all, /embed_sparse, /rerank with
`texts`, /predict, /similarity, and POST / (its alias for what the model does).

Its rules differ from vLLM's in places: input is cut to the model's limit unless `truncate` is false, errors
are flat with status 422.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers.params import PoolingParams
from ...runtime.answers.postprocess import without_ends
from ...runtime.answers.scoring import activate
from ...runtime.outputs import Outputs, Ranking
from ..context import context_of
from ..errors import ApiError, api_error, surprising, tei_response
from ..http.request_body import form, read, read_json
from ..models.registry import Served
from ..responses import Json, Times, sparse_weights
from ..schema import tei
from .score import style

Endpoint = Callable[[Request], Awaitable[Response]]


def wire(endpoint: Endpoint) -> Endpoint:
    """Answers errors in TEI's form."""

    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException:
            raise
        except Exception as error:
            told = api_error(error)
            if surprising(told):
                request.app.state.log(error, request)
            return tei_response(told)

    return answered


def cut(record: tei.TeiCut) -> dict[str, Any]:
    if record.truncate is False:
        return {}
    side: Literal["left", "right"] | None = "left" if record.truncation_direction.lower() == "left" else None
    return {"truncate_prompt_tokens": -1, "truncation_side": side}


def batched(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)) else inputs


@wire
async def embed(request: Request) -> Response:
    return await _embed(request, await read_json(request), "embed")


@wire
async def embed_all(request: Request) -> Response:
    return await _embed(request, await read_json(request), "token_embed")


async def _embed(request: Request, value: Any, task: str) -> Response:
    context = context_of(request)
    context.require(task)
    record: tei.TeiEmbed = await form(request, tei.EMBED, value)
    served = context.registry.able(record.model, task, "Embed")
    context.log_inputs("tei", request, record, served, batched(record.inputs))
    params = PoolingParams(
        use_activation=record.normalize if task == "embed" else None, dimensions=record.dimensions
    )

    def start(deadline_s: float | None) -> Any:
        return served.model.start(
            batched(record.inputs),
            params,
            pooling_task=task,
            prompt_name=record.prompt_name,
            deadline_s=deadline_s,
            **cut(record),
        )

    return await context.workshop.answer(
        request, served, start, lambda outputs, _, headers: Json(outputs.arrays, headers=headers)
    )


@wire
async def embed_sparse(request: Request) -> Response:
    context = context_of(request)
    context.require("sparse")
    record: tei.TeiEmbed = await read(request, tei.EMBED)
    served = context.registry.able(record.model, "sparse", "sparse embedding")
    task = sparse_task(served)
    assert task is not None
    head, encoder = served.manifest.heads[task], served.model.preparation.encoder
    special = frozenset([*encoder.before, *encoder.after])
    context.log_inputs("tei", request, record, served, batched(record.inputs))

    def start(deadline_s: float | None) -> Any:
        return served.model.start(
            batched(record.inputs),
            pooling_task=task,
            prompt_name=record.prompt_name,
            deadline_s=deadline_s,
            **cut(record),
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        data = []
        for one in outputs.requests:
            ids = one.prompt_token_ids
            weights = sparse_weights(
                one.outputs.data, ids[without_ends(head, ids)] if head.flat else ids, special
            )
            data.append([{"index": token, "value": weight} for token, weight in weights.items()])
        return Json(data, headers=headers)

    return await context.workshop.answer(request, served, start, shape)


def sparse_task(served: Served) -> str | None:
    return next(
        (task for task, head in served.manifest.heads.items() if head.sparse and served.can(task)), None
    )


async def rerank(request: Request, value: Any) -> Response:
    return await _rerank(request, value)


async def _rerank(request: Request, value: Any) -> Response:
    try:
        context = context_of(request)
        record: tei.TeiRerank = await form(request, tei.RERANK, value)
        served = context.registry.able(record.model, "score", "Rerank")
        context.log_inputs("tei", request, record, served, [record.query, record.texts])
        params = PoolingParams(use_activation=not record.raw_scores)
        options = cut(record) | style(served, context.settings)

        def start(deadline_s: float | None) -> Any:
            return served.model.start_rerank(
                record.query, record.texts, pooling_params=params, deadline_s=deadline_s, **options
            )

        def shape(ranking: Ranking, _: Times, headers: Mapping[str, str]) -> Response:
            results: list[dict[str, Any]] = [
                {"index": ranked.index, "score": ranked.score}
                | ({"text": ranked.document} if record.return_text else {})
                for ranked in ranking
            ]
            return Json(results, headers=headers)

        return await context.workshop.answer(request, served, start, shape)
    except Exception as error:
        told = api_error(error)
        if surprising(told):
            request.app.state.log(error, request)
        return tei_response(told)


@wire
async def predict(request: Request) -> Response:
    return await _predict(request, await read_json(request))


async def _predict(request: Request, value: Any) -> Response:
    """Classes of texts, or of (text, text) pairs where the model scores pairs. One input answers a list,
    several a list of lists."""
    context = context_of(request)
    context.require("classify")
    record: tei.TeiPredict = await form(request, tei.PREDICT, value)
    served = context.registry.able(record.model, "classify", "Predict")
    single, texts, pairs = forms(record.inputs)
    context.log_inputs("tei", request, record, served, pairs or texts)
    hub = record.parameters
    function = hub.function_to_apply if hub is not None else None
    params = PoolingParams(use_activation=not record.raw_scores and function is None)
    labels = served.manifest.heads["classify"].labels

    def start(deadline_s: float | None) -> Any:
        if pairs:
            if not served.can("score"):
                raise ApiError(
                    400,
                    (
                        "pairs of texts need a cross-encoder; this model classifies single texts "
                        "(parameter=inputs)"
                    ),
                    param="inputs",
                )
            first, second = zip(*pairs, strict=True)
            return served.model.start_score(
                list(first),
                list(second),
                pooling_params=params,
                deadline_s=deadline_s,
                **cut(record),
                **style(served, context.settings),
            )
        return served.model.start(
            texts, params, pooling_task="classify", deadline_s=deadline_s, **cut(record)
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        values = [np.atleast_1d(output.outputs.data) for output in outputs.requests]
        if function in ("sigmoid", "softmax"):
            values = [activate(function, logits) for logits in values]
        classes = [named(probs, labels)[: hub.top_k if hub is not None else None] for probs in values]
        # The Hub's clients read a list for each text even of a single one.
        return Json(classes[0] if single and hub is None else classes, headers=headers)

    return await context.workshop.answer(request, served, start, shape)


def forms(inputs: Any) -> tuple[bool, list[str], list[tuple[str, str]]]:
    """TEI's spellings: "a" is one text, ["a", "b"] one pair, [["a"], ["b"]] texts,
    [["a", "b"], ...] pairs."""
    if isinstance(inputs, str):
        return True, [inputs], []
    if inputs and isinstance(inputs[0], str):
        if len(inputs) == 2:
            return True, [], [(inputs[0], inputs[1])]
        if len(inputs) == 1:
            return True, inputs, []
        raise ApiError(
            422,
            ("inputs: one text, one pair of texts, or a list of lists of them (parameter=inputs)"),
            param="inputs",
        )
    lengths = {len(item) for item in inputs}
    if lengths == {1}:
        return False, [item[0] for item in inputs], []
    if lengths == {2}:
        return False, [], [(item[0], item[1]) for item in inputs]
    raise ApiError(
        422,
        (
            "inputs: every item must be one text or a pair, all alike, and there must be one "
            "(parameter=inputs)"
        ),
        param="inputs",
    )


def named(probs: np.ndarray[Any, Any], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    order = np.argsort(-probs, kind="stable").tolist()
    return [
        {"label": labels[index] if index < len(labels) else f"LABEL_{index}", "score": float(probs[index])}
        for index in order
    ]


@wire
async def similarity(request: Request) -> Response:
    return await _similarity(request, await read_json(request))


async def _similarity(request: Request, value: Any) -> Response:
    context = context_of(request)
    context.require("embed")
    record: tei.TeiSimilarity = await form(request, tei.SIMILARITY, value)
    served = context.registry.able(record.model, "embed", "Similarity")
    more = record.parameters or tei.TeiParameters()
    texts = [record.inputs.source_sentence, *record.inputs.sentences]
    context.log_inputs("tei", request, record, served, texts)

    def start(deadline_s: float | None) -> Any:
        params = PoolingParams(use_activation=True)
        return served.model.start(
            texts,
            params,
            pooling_task="embed",
            prompt_name=more.prompt_name,
            deadline_s=deadline_s,
            **cut(more),
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        vectors = np.asarray(outputs)
        return Json(vectors[1:] @ vectors[0], headers=headers)

    return await context.workshop.answer(request, served, start, shape)


@wire
async def root(request: Request) -> Response:
    """POST /: embeddings, a ranking or predictions, by what the model is and what the body asks."""
    value = await read_json(request)
    context = context_of(request)
    context.opened()
    if type(value) is dict and "query" in value:
        context.require("score")
        return await _rerank(request, value)
    if type(value) is dict and type(value.get("inputs")) is dict:
        return await _similarity(request, value)
    served = context.registry.find(
        value.get("model") if type(value) is dict and isinstance(value.get("model"), str) else None
    )
    return await (_embed(request, value, "embed") if served.can("embed") else _predict(request, value))
