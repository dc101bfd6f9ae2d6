"""POST /invocations, SageMaker's one route: the body says which of the others is meant (docs/http.md 10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import schemas
from ..body import Body, Refused
from ..context import context
from ..errors import ApiError
from ..reading import check_media_type, form, parsed, read_bytes
from ..registry import Served
from ..work import LIGHT_BYTES
from . import classify, embeddings, pooling, score

Answer = Callable[[Request, Any], Awaitable[Response]]

# In vLLM's order; the first whose schema fits a live route answers.
ROUTES: tuple[tuple[str, Body, Callable[[Served], bool], Answer], ...] = (
    ("/v1/embeddings", schemas.EMBEDDINGS, lambda one: one.can("embed"), embeddings.answer),
    ("/classify", schemas.CLASSIFY, lambda one: one.can("classify"), classify.answer),
    ("/rerank", schemas.RERANK, lambda one: one.scores, score.answer_rerank),
    ("/score", schemas.SCORE, lambda one: one.scores, score.answer_score),
    ("/pooling", schemas.POOLING, lambda one: True, pooling.answer),
)


async def invocations(request: Request) -> Response:
    here = context(request)
    here.opened()
    check_media_type(request)
    shop = here.workshop
    content = await read_bytes(request, shop)
    try:
        if len(content) <= LIGHT_BYTES:
            value = parsed(content, request, shop)
        else:
            value = await shop.reading(request, lambda: parsed(content, request, shop))
    except Refused as error:
        place = (error.param or "body").removeprefix("body.")
        raise ApiError(400, f"JSON decode error: the body is not valid JSON at byte {place}", kind="Bad Request") from None
    # SageMaker names an adapter in a header of its own.
    adapter = request.headers.get("x-amzn-sagemaker-adapter-identifier")
    if adapter and type(value) is dict:
        value["model"] = adapter
    for _, body, claim, answer in ROUTES:
        if here.registry.any(claim):
            try:
                asked = await form(request, body, value)
            except Refused as error:
                if error.kind == "BadRequestError":  # a field that is refused by name fits no other route either
                    raise
                continue
            return await answer(request, asked)
    live = ", ".join(path for path, _, claim, _ in ROUTES if here.registry.any(claim))
    raise ApiError(400, f"Cannot find suitable handler for request. Expected a body of one of: {live}")
