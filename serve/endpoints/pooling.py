"""POST /pooling: every task of every model (docs/http.md 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers.params import PoolingParams
from ...runtime.answers.sparse import token_weights
from ...runtime.outputs import Outputs
from ..context import Context
from ..errors import ApiError
from ..metrics.times import Times
from ..models.registry import Served
from ..prompts import contents_of, inputs_of, refuse_foreign, side_of
from ..responses import Json, answer_id, listed, vectors
from ..schema import vllm
from . import plugin

NO_PLUGIN = (
    "No IOProcessor plugin installed. Start the server with --io-processor-plugin NAME, or send input "
    "and a task instead of data."
)
NO_DATA = (
    "The task plugin needs a 'data' field with what the IO processor asks for, instead of input or messages."
)
COMBINED = (
    "The task embed&token_classify needs a plugin request with a 'data' field; send one "
    "request per task instead."
)


async def answer(request: Request, context: Context, served: Served, record: Any) -> Response:
    task = task_of(record, served)
    if isinstance(record, vllm.PoolingPlugin):
        assert served.model.plugin is not None, "task_of refuses data without it"
        return await plugin.answer(request, context, record, served, served.model.plugin)
    if record.encoding_format == "sparse" and not served.manifest.heads[task].sparse:
        raise ApiError(
            400,
            f"encoding_format 'sparse' needs a sparse head; the task {task} of this model is dense "
            "(parameter=encoding_format)",
            param="encoding_format",
        )

    pictures = await context.workshop.attach(request, served, record, lambda: contents_of(record))

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(record, served, context.settings, pictures)
        refuse_foreign(prompts, request, served, context.settings)
        context.log_inputs("pooling", request, record, served, prompts)
        options = text_options(record) | side_of(record, served)
        return served.model.start(
            prompts, params_of(record), pooling_task=task, deadline_s=deadline_s, **options
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        identifier = answer_id("pooling", request, record)
        if record.encoding_format == "sparse":
            data = [sparse(index, output, record, served) for index, output in enumerate(outputs.requests)]
            return Json(listed(identifier, served.told_name, data, outputs.prompt_tokens), headers=headers)
        return vectors(
            outputs,
            headers,
            record=record,
            model=served.told_name,
            identifier=identifier,
            kind="pooling",
            key="data",
        )

    return await context.workshop.answer(request, served, start, shape, pictures=pictures)


def refuse_dimensions(record: Any) -> None:
    if record.dimensions is not None:
        raise ApiError(
            400,
            "dimensions is currently not supported (parameter=dimensions); /v1/embeddings takes it",
            param="dimensions",
        )


def task_of(record: Any, served: Served) -> str:
    """The task of a request, checked in vLLM's order. Raises ApiError."""
    name = "plugin" if isinstance(record, vllm.PoolingPlugin) else record.task
    task = {None: served.model.tasks[0], "score": "classify"}.get(name, name)
    if task == "plugin":
        if served.model.plugin is None:
            raise ApiError(400, f"{NO_PLUGIN} (parameter=task)", param="task")
        if not isinstance(record, vllm.PoolingPlugin):
            raise ApiError(400, f"{NO_DATA} (parameter=task)", param="task")
        return task
    if task == "embed&token_classify" and served.can("embed") and served.can("token_classify"):
        raise ApiError(400, COMBINED)
    if not served.can(task):
        able = list(served.model.tasks)
        raise ApiError(
            400, f"Unsupported task: '{task}' Supported tasks: {able} (parameter=task)", param="task"
        )
    return task


def params_of(record: Any) -> PoolingParams:
    return PoolingParams(use_activation=record.use_activation, dimensions=getattr(record, "dimensions", None))


def text_options(record: Any) -> dict[str, Any]:
    """How the runtime prepares and queues the texts of a request."""
    return {
        "truncate_prompt_tokens": record.truncate_prompt_tokens,
        "truncation_side": record.truncation_side,
        "add_special_tokens": record.add_special_tokens,
        "priority": record.priority,
        "cache_salt": getattr(record, "cache_salt", None),
    }


def sparse(index: int, output: Any, record: Any, served: Served) -> dict[str, Any]:
    """One item of a sparse response. The keys of its weights are token ids, or vocabulary pieces with
    `return_tokens`."""
    head = served.manifest.heads["token_classify" if served.can("token_classify") else "embed"]
    encoder = served.model.preparation.encoder
    weights = token_weights(output, head, encoder)
    pieces = encoder.pieces(list(weights)) if record.return_tokens else map(str, weights)
    return {"index": index, "object": "pooling", "data": dict(zip(pieces, weights.values(), strict=True))}
