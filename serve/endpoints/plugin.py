"""POST /pooling with `data`: the model's IO processor makes prompts of it, and the answer's `data` of their outputs (docs/http.md 5)."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.plugins import Plugin, Prepared
from .. import schemas
from ..answers import AnyJson, answer_id
from ..context import context
from ..registry import Served


async def answer(request: Request, asked: schemas.PoolingPlugin, served: Served, plugin: Plugin) -> Response:
    here = context(request)
    identifier = answer_id("pooling", request, asked)
    early = await plugin.prepare_async(asked.data, identifier) if plugin.prepares_async else None
    prepared: list[Prepared] = [early] if early is not None else []

    def start(deadline_s: float | None) -> Any:
        if not prepared:
            prepared.append(plugin.prepare(asked.data, identifier))
        (ready,) = prepared
        here.log_inputs("pooling", request, asked, served, ready.prompts)
        return served.model.start(
            ready.prompts,
            ready.params,
            pooling_task=ready.task or served.model.tasks[0],
            truncate_prompt_tokens=asked.truncate_prompt_tokens,
            truncation_side=asked.truncation_side,
            deadline_s=deadline_s,
            priority=asked.priority,
        )

    # Other people's code may take its time: never in the event loop.
    made, times = await here.workshop.run(request, served, start, in_thread=True)
    (ready,) = prepared
    if plugin.finishes_async:
        data = await plugin.finish_async(ready, made)
    else:
        data = await here.workshop.thread(lambda: plugin.finish(ready, made))
    with here.serialising(served):
        content = {"request_id": identifier, "created_at": int(time.time()), "data": data}
        return AnyJson(content, headers=here.headers(times, made))
