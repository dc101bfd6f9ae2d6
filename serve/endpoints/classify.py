"""POST /classify (docs/http.md 6)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import schemas
from ..answers import Json, answer_id, listed
from ..context import context
from ..prompts import inputs_of, refuse_foreign
from ..reading import read
from .pooling import params_of, text_options


async def classify(request: Request) -> Response:
    context(request).require("classify")
    return await answer(request, await read(request, schemas.CLASSIFY))


async def answer(request: Request, asked: Any) -> Response:
    here = context(request)
    served = here.registry.able(asked.model, "classify", "Classification")

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(asked, served, here.settings)
        refuse_foreign(prompts, request, served, here.settings)
        here.log_inputs("classify", request, asked, served, prompts)
        return served.model.start(prompts, params_of(asked), pooling_task="classify", deadline_s=deadline_s, **text_options(asked))

    made, times = await here.workshop.run(request, served, start)
    labels = served.manifest.heads["classify"].labels
    arrays = made.arrays

    def write() -> Response:
        data = []
        for index, probs in enumerate(arrays):
            best = int(probs.argmax())
            label = labels[best] if best < len(labels) else None
            data.append({"index": index, "label": label, "probs": probs, "num_classes": len(probs)})
        content = listed(answer_id("classify", request, asked), served.told_name, data, made.prompt_tokens)
        return Json(content, headers=here.headers(times, made))

    return await here.written(served, arrays, write)
