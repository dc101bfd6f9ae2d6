"""What is known of one route, said once: the application's routes, the OpenAPI document, /invocations and errors are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from ..body import Body
from ..settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    path: str
    endpoint: Endpoint
    about: str
    """Its summary in the OpenAPI document."""
    methods: tuple[Literal["GET", "POST"], ...] = ("POST",)
    ability: str | None = None
    """The route is there where a served model can do this (abilities.py); None: always."""
    bodies: tuple[Body, ...] = ()
    response: str | None = None
    """Schema of a JSON response, by its name in the OpenAPI document; None: anything."""
    media: tuple[str, ...] = (JSON,)
    """Types of a response with status 200; empty: it has no content."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Of a GET route: its other statuses and when they come."""
    answer: Callable[[Request, Any], Awaitable[Response]] | None = None
    """The response to a body that was read already; only where /invocations may mean the route."""
    is_on: Callable[[Settings], bool] = lambda settings: True
