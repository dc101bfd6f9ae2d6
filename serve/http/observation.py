"""The layer around the gate that writes a line of the log and a trace for each request.

An application has it only where one of both is switched on, so that it costs nothing where neither is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import REASON, REASONS
from ..headers import identified
from ..logs import plain
from ..metrics.times import TIMES, Times

if TYPE_CHECKING:
    from ..tracing.spans import RequestSpan, Tracing

access_log = logging.getLogger("uvicorn.access")


class Observation:
    """Observes the requests of an application.

    Args:
        tracing: makes their spans; None: there are none.
        log: whether each has a line in the access log, in place of uvicorn's, which knows only its status.
        untraced: paths without spans: health checks and scrapes.
        root: prefix of paths (`--root-path`).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracing: Tracing | None,
        log: bool,
        untraced: Container[str] = (),
        root: str = "",
    ) -> None:
        self.app = app
        self.tracing = tracing
        self.log = log
        self.untraced = untraced
        self.root = root.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The response may leave, and the client read the log, before this layer goes on: the times are read
        # at its last byte.
        started = time.perf_counter()
        path = scope["path"].removeprefix(self.root) or "/"
        span = None
        if self.tracing is not None and path not in self.untraced:
            span = self.tracing.begin(scope)
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - started
            if span is not None:
                span.end(status)
            if self.log and access_log.isEnabledFor(logging.INFO):
                _write_line(scope, status, seconds, span)


def _write_line(scope: Scope, status: int, seconds: float, span: RequestSpan | None) -> None:
    """Logs one request, with uvicorn's arguments and what they leave out."""
    client = ":".join(map(str, scope.get("client") or ()))
    route = scope.get("route")
    fields: dict[str, Any] = {
        "request_id": plain(identified(scope)),
        "client": client or None,
        "method": scope["method"],
        "path": plain(scope["path"]),
        "route": route.path if route is not None else None,
        "status": status,
        "duration_s": round(seconds, 6),
        "reason": scope.get(REASON, REASONS.get(status)),
    }
    times: Times | None = scope.get(TIMES)
    if times is not None:
        fields |= {"model": times.model, "prompts": times.prompts, "tokens": times.tokens}
        if times.answered_s:
            fields |= {name: round(getattr(times, name), 6) for name in ("tokenise_s", "queue_s", "engine_s")}
    if span is not None:
        fields |= span.identifiers()
    query = scope["query_string"]
    target = scope["path"] + ("?" + query.decode("latin-1") if query else "")
    access_log.info(
        '%s - "%s %s HTTP/%s" %d',
        client,
        scope["method"],
        target,
        scope.get("http_version", "1.1"),
        status,
        extra=fields,
    )
