"""The record of one route. The application's routes, the OpenAPI document, /invocations and the errors for
absent routes are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from ..context import Context, context_of
from ..errors import ApiError
from ..http.request_body import Wire, read
from ..models.registry import Served
from ..schema.body import Body
from ..settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Request, Context, Served, Any], Awaitable[Response]]
JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"
FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    path: str
    about: str
    """Its summary in the OpenAPI document."""
    methods: tuple[Literal["GET", "POST", "DELETE"], ...] = ("POST",)
    ability: str | None = None
    """The route is there where a served model can do this (models/abilities.py); None: always."""
    bodies: tuple[Body, ...] = ()
    takes: str = JSON
    """The type of its bodies."""
    response: str | None = None
    """Schema of a JSON response, by its name in the OpenAPI document; None: anything."""
    media: tuple[str, ...] = (JSON,)
    """Types of a response with status 200; empty: it has no content."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Of a GET route: its other statuses, each with when it is returned."""
    answer: Answer | None = None
    """Makes the response of a model to a request whose body was read as the first of `bodies`."""
    api: str = ""
    """Name of the API in the error for a model that lacks the ability."""
    check: Callable[[Any], None] | None = None
    """Refuses a body (raises ApiError) before its model is looked up."""
    endpoint: Endpoint | None = None
    """Of a route without `answer`: makes the response to a request."""
    other: tuple[Wire, Callable[[Request, Any], Awaitable[Response]]] | None = None
    """Another API at the same path, and the function that makes the response to one of its bodies."""
    is_on: Callable[[Settings], bool] = lambda settings: True
    is_probe: bool = False
    """Asked by health checks: it needs no key, and is served while the server stops and beyond the limit of
    connections."""
    is_queued: bool = True
    """A request with a body adds to a model's queue, so it is refused before its body is read where all
    queues are full."""
    is_counted: bool = True
    """Its requests are part of the HTTP metrics."""
    is_for_one: bool = False
    """It changes what this process serves, so a server of several processes refuses it: it would reach one of
    them."""

    async def respond(self, request: Request) -> Response:
        """The response to a request for this path.

        Checks the ability, reads the body, finds the model, and calls `answer`, in this order.
        Raises ApiError, HTTPException and what the runtime raises.
        """
        if self.is_for_one and (processes := context_of(request).settings.processes) > 1:
            raise ApiError(
                409,
                f"{self.path} would reach one of {processes} processes; give it at the start, or serve with "
                "--api-server-count 1",
            )
        if self.answer is None:
            assert self.endpoint is not None, f"{self.path} has neither an answer nor an endpoint"
            return await self.endpoint(request)
        assert self.ability is not None, f"{self.path} is a model's, and names no ability"
        context = context_of(request)
        context.require(self.ability)
        wire, other = self.other or (None, None)
        record = await read(request, self.bodies[0], wire)
        if other is not None and type(record) is dict:
            return await other(request, record)
        if self.check is not None:
            self.check(record)
        served = context.registry.able(record.model, self.ability, self.api)
        return await self.answer(request, context, served, record)
