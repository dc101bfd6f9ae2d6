"""POST /pooling with `data`: the model's IO processor makes prompts of it, and the response's `data` from
their outputs (docs/http.md 5)."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.plugins import Plugin, Prepared
from ..context import Context
from ..models.registry import Served
from ..responses import AnyJson, answer_id, headers
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
    response = AnyJson(content, headers=headers(times, outputs, timing=context.settings.timing_headers))
    times.serialise_s = time.perf_counter() - begun
    return response
