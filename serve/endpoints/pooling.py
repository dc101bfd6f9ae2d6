"""POST /pooling: every task of every model (docs/http.md 5)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.params import PoolingParams
from ...runtime.tasks import without_ends
from .. import schemas
from ..answers import Json, answer_id, listed, sparse_weights, vectors
from ..context import context
from ..errors import ApiError
from ..prompts import inputs_of, refuse_foreign, side_of
from ..reading import read
from ..registry import Served
from . import plugin

NO_PLUGIN = "No IOProcessor plugin installed. Start the server with --io-processor-plugin NAME, or send input and a task instead of data."
NO_DATA = "The task plugin needs a 'data' field with what the IO processor asks for, instead of input or messages."
COMBINED = "The task embed&token_classify needs a plugin request with a 'data' field; send one request per task instead."


async def pooling(request: Request) -> Response:
    context(request).opened()
    return await answer(request, await read(request, schemas.POOLING))


async def answer(request: Request, asked: Any) -> Response:
    here = context(request)
    if asked.dimensions is not None:
        raise ApiError(400, "dimensions is currently not supported (parameter=dimensions); /v1/embeddings takes it", param="dimensions")
    served = here.registry.find(asked.model)
    task = task_of(asked, served)
    if isinstance(asked, schemas.PoolingPlugin):
        assert served.model.plugin is not None, "task_of refuses data without it"
        return await plugin.answer(request, asked, served, served.model.plugin)
    if asked.encoding_format == "sparse" and not served.manifest.heads[task].sparse:
        raise ApiError(
            400, f"encoding_format 'sparse' needs a sparse head; the task {task} of this model is dense (parameter=encoding_format)",
            param="encoding_format",
        )  # fmt: skip

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(asked, served, here.settings)
        refuse_foreign(prompts, request, served, here.settings)
        here.log_inputs("pooling", request, asked, served, prompts)
        options = text_options(asked) | side_of(asked, served)
        return served.model.start(prompts, params_of(asked), pooling_task=task, deadline_s=deadline_s, **options)

    made, times = await here.workshop.run(request, served, start)
    identifier = answer_id("pooling", request, asked)
    headers = here.headers(times, made)
    arrays = made.arrays

    def write() -> Response:
        if asked.encoding_format == "sparse":
            data = [sparse(index, one, asked, served) for index, one in enumerate(made.requests)]
            return Json(listed(identifier, served.told_name, data, made.prompt_tokens), headers=headers)
        return vectors(
            arrays,
            identifier=identifier,
            model=served.told_name,
            tokens=made.prompt_tokens,
            asked=asked,
            kind="pooling",
            key="data",
            headers=headers,
        )

    return await here.written(served, arrays, write)


def task_of(asked: Any, served: Served) -> str:
    """The task a request means, checked in vLLM's order."""
    asked_task = "plugin" if isinstance(asked, schemas.PoolingPlugin) else asked.task
    task = {None: served.model.tasks[0], "score": "classify"}.get(asked_task, asked_task)
    if task == "plugin":
        if served.model.plugin is None:
            raise ApiError(400, f"{NO_PLUGIN} (parameter=task)", param="task")
        if not isinstance(asked, schemas.PoolingPlugin):
            raise ApiError(400, f"{NO_DATA} (parameter=task)", param="task")
        return task
    if task == "embed&token_classify" and served.can("embed") and served.can("token_classify"):
        raise ApiError(400, COMBINED)
    if not served.can(task):
        able = list(served.model.tasks)
        raise ApiError(400, f"Unsupported task: '{task}' Supported tasks: {able} (parameter=task)", param="task")
    return task


def params_of(asked: Any) -> PoolingParams:
    return PoolingParams(use_activation=asked.use_activation, dimensions=getattr(asked, "dimensions", None))


def text_options(asked: Any) -> dict[str, Any]:
    return {
        "truncate_prompt_tokens": asked.truncate_prompt_tokens,
        "truncation_side": asked.truncation_side,
        "add_special_tokens": asked.add_special_tokens,
        "priority": asked.priority,
    }


def sparse(index: int, one: Any, asked: Any, served: Served) -> dict[str, Any]:
    """A map from token to weight: keys are ids, or vocabulary pieces with `return_tokens`."""
    head = served.manifest.heads["token_classify" if served.can("token_classify") else "embed"]
    ids = one.prompt_token_ids
    kept = ids[without_ends(head, ids)] if head.flat else ids
    encoder = served.model.preparation.encoder
    weights = sparse_weights(one.outputs.data, kept, frozenset([*encoder.before, *encoder.after]))
    pieces = encoder.pieces(list(weights)) if asked.return_tokens else map(str, weights)
    return {"index": index, "object": "pooling", "data": dict(zip(pieces, weights.values(), strict=True))}
