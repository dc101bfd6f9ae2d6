"""POST /invocations, SageMaker's one route: the body says which of the others is meant (docs/http.md 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..context import context_of
from ..errors import UNREAD, ApiError
from ..execution import LIGHT_BYTES
from ..http.request_body import admit, check_media_type, counted, form, parse, read_bytes
from .route import Endpoint, Route


def among(routes: Sequence[Route]) -> Endpoint:
    """The endpoint that responds as the first of these routes that is there and fits the body."""

    async def endpoint(request: Request) -> Response:
        return await invocations(request, routes)

    return endpoint


async def invocations(request: Request, routes: Sequence[Route]) -> Response:
    context = context_of(request)
    context.opened()
    check_media_type(request)
    shop = context.workshop
    content = await read_bytes(request, shop)

    def read() -> Any:
        admit(content, request, shop)
        try:
            value = parse(content)
        except ApiError as error:
            place = (error.param or "body").removeprefix("body.")
            raise ApiError(
                400, f"JSON decode error: the body is not valid JSON at byte {place}", kind=UNREAD
            ) from None
        return counted(value, content, shop)

    value = read() if len(content) <= LIGHT_BYTES else await shop.reading(request, read)
    # SageMaker names an adapter in a header.
    adapter = request.headers.get("x-amzn-sagemaker-adapter-identifier")
    if adapter and type(value) is dict:
        value["model"] = adapter
    live = [route for route in routes if route.ability in context.registry.abilities]
    for route in live:
        assert route.answer is not None, f"/invocations has no way to {route.path}"
        assert route.ability is not None
        try:
            record = await form(request, route.bodies[0], value)
        except ApiError as error:
            if error.kind != UNREAD:  # a field that is refused by name is refused by every route
                raise
            continue
        if route.check is not None:
            route.check(record)
        served = context.registry.able(record.model, route.ability, route.api)
        return await route.answer(request, context, served, record)
    paths = ", ".join(route.path for route in live)
    raise ApiError(400, f"Cannot find suitable handler for request. Expected a body of one of: {paths}")
