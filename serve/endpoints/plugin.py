"""POST /pooling with `data`: the model's IO processor makes prompts of it, and the response's `data` from
their outputs (docs/http.md 5)."""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.errors import PluginError
from ...runtime.plugins import Plugin, Prepared
from ..context import Context
from ..models.registry import Served
from ..responses import Json, answer_id, response_headers
from ..schema import vllm


async def answer(
    request: Request, context: Context, record: vllm.PoolingPlugin, served: Served, plugin: Plugin
) -> Response:
    identifier = answer_id("pooling", request, record)
    early = await plugin.prepare_async(record.data, identifier) if plugin.prepares_async else None
    prepared: list[Prepared] = [early] if early is not None else []

    def start(deadline_s: float | None) -> Any:
        if not prepared:
            prepared.append(plugin.prepare(record.data, identifier))
        (ready,) = prepared
        context.log_inputs("pooling", request, record, served, ready.prompts)
        return served.model.start(
            ready.prompts,
            ready.params,
            pooling_task=ready.task or served.model.tasks[0],
            truncate_prompt_tokens=record.truncate_prompt_tokens,
            truncation_side=record.truncation_side,
            deadline_s=deadline_s,
            priority=record.priority,
        )

    # A plugin is other people's code and may be slow, so it never runs in the event loop.
    outputs, times = await context.workshop.run(request, served, start, in_thread=True)
    (ready,) = prepared
    if plugin.finishes_async:
        data = await plugin.finish_async(ready, outputs)
    else:
        data = await context.workshop.thread(lambda: plugin.finish(ready, outputs))
    begun = time.perf_counter()
    content = {"request_id": identifier, "created_at": int(time.time()), "data": data}
    headers = response_headers(times, outputs, timing=context.settings.timing_headers)
    response = AnyJson(content, headers=headers)
    times.serialise_s = time.perf_counter() - begun
    return response


class AnyJson(Json):
    """JSON of what an IO processor returns: pydantic's models and keys that are no text are allowed too."""

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(
                content, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
            )
        except orjson.JSONEncodeError as error:
            raise PluginError(
                "an IO processor answered what is not JSON; its package is to be mended"
            ) from error


def _plain(value: Any) -> Any:
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    raise TypeError(type(value).__name__)
