"""The API of Hugging Face's text-embeddings-inference: /embed, /embed_all, /embed_sparse, /rerank with
`texts`, /predict, /similarity, and POST / (an alias of one of these, by what the model can do).

Its rules differ from vLLM's in places. Input is cut to the model's limit unless `truncate` is false, and
errors are flat with status 422.

Functions named `answer_...` take the parsed body. `endpoint` makes the endpoint of a route from one of them,
and POST / chooses among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers.params import PoolingParams
from ...runtime.answers.scoring import activate
from ...runtime.answers.sparse import sparse_task, token_weights
from ...runtime.outputs import Outputs, Ranking, label_of
from ..context import context_of
from ..errors import ApiError
from ..http.request_body import form, read
from ..metrics.times import Times
from ..responses import Json
from ..schema import tei
from .score import style
from .tei_wire import cut, endpoint, wire


def batched(inputs: Any) -> list[Any]:
    """A list of inputs: one text or one list of token ids is a batch of one."""
    return [inputs] if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)) else inputs


async def answer_embed(request: Request, value: Any, *, task: Literal["embed", "token_embed"]) -> Response:
    context = context_of(request)
    context.require(task)
    record: tei.TeiEmbed = await form(request, tei.EMBED, value)
    served = context.registry.able(record.model, task, "Embed")
    inputs = batched(record.inputs)
    context.log_inputs("tei", request, record, served, inputs)
    params = PoolingParams(
        use_activation=record.normalize if task == "embed" else None, dimensions=record.dimensions
    )

    def start(deadline_s: float | None) -> Any:
        return served.model.start(
            inputs,
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
    task = sparse_task(served.manifest)
    assert task is not None
    head, encoder = served.manifest.heads[task], served.model.preparation.encoder
    inputs = batched(record.inputs)
    context.log_inputs("tei", request, record, served, inputs)

    def start(deadline_s: float | None) -> Any:
        return served.model.start(
            inputs,
            pooling_task=task,
            prompt_name=record.prompt_name,
            deadline_s=deadline_s,
            **cut(record),
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        data = [
            [
                {"index": token, "value": weight}
                for token, weight in token_weights(output, head, encoder).items()
            ]
            for output in outputs.requests
        ]
        return Json(data, headers=headers)

    return await context.workshop.answer(request, served, start, shape)


@wire
async def rerank(request: Request, value: Any) -> Response:
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


async def answer_predict(request: Request, value: Any) -> Response:
    """Classes of texts, or of (text, text) pairs where the model scores pairs.

    The response to one input is a list, the response to several a list of lists.
    """
    context = context_of(request)
    context.require("classify")
    record: tei.TeiPredict = await form(request, tei.PREDICT, value)
    served = context.registry.able(record.model, "classify", "Predict")
    single, texts, pairs = forms(record.inputs)
    context.log_inputs("tei", request, record, served, pairs or texts)
    parameters = record.parameters
    function = parameters.function_to_apply if parameters is not None else None
    params = PoolingParams(use_activation=not record.raw_scores and function is None)
    labels = served.manifest.heads["classify"].labels

    def start(deadline_s: float | None) -> Any:
        if pairs:
            if not served.can("score"):
                raise ApiError(
                    400,
                    "pairs of texts need a cross-encoder; this model classifies single "
                    "texts (parameter=inputs)",
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
        classes = [
            named(probs, labels)[: parameters.top_k if parameters is not None else None] for probs in values
        ]
        # The Hub's clients, which send `parameters`, expect a list of lists even for a single text.
        return Json(classes[0] if single and parameters is None else classes, headers=headers)

    return await context.workshop.answer(request, served, start, shape)


def forms(inputs: Any) -> tuple[bool, list[str], list[tuple[str, str]]]:
    """Whether it is a single input, the texts, and the pairs.

    "a" is one text, ["a", "b"] one pair, [["a"], ["b"]] texts, [["a", "b"], ...] pairs. Raises ApiError.
    """
    if isinstance(inputs, str):
        return True, [inputs], []
    if inputs and isinstance(inputs[0], str):
        if len(inputs) == 2:
            return True, [], [(inputs[0], inputs[1])]
        if len(inputs) == 1:
            return True, inputs, []
        raise ApiError(
            422,
            "inputs: one text, one pair of texts, or a list of lists of them (parameter=inputs)",
            param="inputs",
        )
    lengths = {len(item) for item in inputs}
    if lengths == {1}:
        return False, [item[0] for item in inputs], []
    if lengths == {2}:
        return False, [], [(item[0], item[1]) for item in inputs]
    raise ApiError(
        422,
        "inputs: every item must be one text or a pair, all alike, and there must be one (parameter=inputs)",
        param="inputs",
    )


def named(probs: np.ndarray[Any, Any], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Labels with their scores, best first. `probs`: [classes]."""
    order = np.argsort(-probs, kind="stable").tolist()
    return [{"label": label_of(index, labels), "score": float(probs[index])} for index in order]


async def answer_similarity(request: Request, value: Any) -> Response:
    context = context_of(request)
    context.require("embed")
    record: tei.TeiSimilarity = await form(request, tei.SIMILARITY, value)
    served = context.registry.able(record.model, "embed", "Similarity")
    parameters = record.parameters or tei.TeiParameters()
    texts = [record.inputs.source_sentence, *record.inputs.sentences]
    context.log_inputs("tei", request, record, served, texts)

    def start(deadline_s: float | None) -> Any:
        params = PoolingParams(use_activation=True)
        return served.model.start(
            texts,
            params,
            pooling_task="embed",
            prompt_name=parameters.prompt_name,
            deadline_s=deadline_s,
            **cut(parameters),
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        vectors = np.asarray(outputs)
        return Json(vectors[1:] @ vectors[0], headers=headers)

    return await context.workshop.answer(request, served, start, shape)


async def answer_root(request: Request, value: Any) -> Response:
    """Embeddings, a ranking or predictions, by what the model is and what the body holds."""
    context = context_of(request)
    context.opened()
    fields: dict[str, Any] = value if type(value) is dict else {}
    if "query" in fields:
        context.require("score")
        return await rerank(request, value)
    if type(fields.get("inputs")) is dict:
        return await answer_similarity(request, value)
    name = fields.get("model")
    served = context.registry.find(name if isinstance(name, str) else None)
    if served.can("embed"):
        return await answer_embed(request, value, task="embed")
    return await answer_predict(request, value)


embed = endpoint(partial(answer_embed, task="embed"))
embed_all = endpoint(partial(answer_embed, task="token_embed"))
predict = endpoint(answer_predict)
similarity = endpoint(answer_similarity)
root = endpoint(answer_root)
