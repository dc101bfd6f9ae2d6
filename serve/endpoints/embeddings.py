"""POST /v1/embeddings (docs/http.md 3)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import schemas
from ..answers import answer_id, vectors
from ..context import context
from ..prompts import inputs_of, refuse_foreign, side_of
from ..reading import read
from .pooling import params_of, text_options


async def embeddings(request: Request) -> Response:
    context(request).require("embed")
    return await answer(request, await read(request, schemas.EMBEDDINGS))


async def answer(request: Request, asked: Any) -> Response:
    here = context(request)
    served = here.registry.able(asked.model, "embed", "Embeddings")

    def start(deadline_s: float | None) -> Any:
        prompts = inputs_of(asked, served, here.settings)
        refuse_foreign(prompts, request, served, here.settings)
        here.log_inputs("embd", request, asked, served, prompts)
        options = text_options(asked) | side_of(asked, served)
        return served.model.start(prompts, params_of(asked), pooling_task="embed", deadline_s=deadline_s, **options)

    made, times = await here.workshop.run(request, served, start)
    arrays, headers = made.arrays, here.headers(times, made)

    def write() -> Response:
        return vectors(
            arrays,
            identifier=answer_id("embd", request, asked),
            model=served.told_name,
            tokens=made.prompt_tokens,
            asked=asked,
            kind="embedding",
            key="embedding",
            headers=headers,
        )

    return await here.written(served, arrays, write)
