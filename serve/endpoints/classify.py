"""POST /classify (docs/http.md 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.outputs import Outputs
from ..context import Context
from ..metrics.times import Times
from ..models.registry import Served
from ..prompts import contents_of, inputs_of, refuse_foreign
from ..responses import Json, answer_id, listed
from .pooling import params_of, text_options


async def answer(request: Request, context: Context, served: Served, record: Any) -> Response:
    pictures = await context.workshop.attach(request, served, record, lambda: contents_of(record))

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(record, served, context.settings, pictures)
        refuse_foreign(prompts, request, served, context.settings)
        context.log_inputs("classify", request, record, served, prompts)
        return served.model.start(
            prompts, params_of(record), pooling_task="classify", deadline_s=deadline_s, **text_options(record)
        )

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        labels = served.manifest.heads["classify"].labels
        data = []
        for index, probs in enumerate(outputs.arrays):
            best = int(probs.argmax())
            label = labels[best] if best < len(labels) else None
            data.append({"index": index, "label": label, "probs": probs, "num_classes": len(probs)})
        content = listed(
            answer_id("classify", request, record), served.told_name, data, outputs.prompt_tokens
        )
        return Json(content, headers=headers)

    return await context.workshop.answer(request, served, start, shape, pictures=pictures)
