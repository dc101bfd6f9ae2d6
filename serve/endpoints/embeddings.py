"""POST /v1/embeddings (docs/http.md 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.outputs import Outputs
from ..context import Context
from ..metrics.times import Times
from ..models.registry import Served
from ..prompts import contents_of, inputs_of, refuse_foreign, side_of
from ..responses import answer_id, vectors
from .pooling import params_of, text_options


async def answer(request: Request, context: Context, served: Served, record: Any) -> Response:
    pictures = await context.workshop.attach(request, served, record, lambda: contents_of(record))

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(record, served, context.settings, pictures)
        refuse_foreign(prompts, request, served, context.settings)
        context.log_inputs("embd", request, record, served, prompts)
        options = text_options(record) | side_of(record, served)
        return served.model.start(
            prompts, params_of(record), pooling_task="embed", deadline_s=deadline_s, **options
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        return vectors(
            outputs,
            headers,
            record=record,
            model=served.told_name,
            identifier=answer_id("embd", request, record),
            kind="embedding",
            key="embedding",
        )

    return await context.workshop.answer(request, served, start, shape, pictures=pictures)
