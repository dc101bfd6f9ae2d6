"""The outermost layer: it checks the key, sets request ids, measures every request, and refuses new work
while the server stops.

It is plain ASGI, because Starlette's BaseHTTPMiddleware takes a task and a queue per request.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import Container

import orjson
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import REASON, REASONS, ApiError, error_response
from ..headers import declared_bytes, header, identified
from ..metrics.prometheus import OBSERVE, Metrics
from ..metrics.state import State
from ..settings import Settings
from .memory_budget import HELD
from .protocol import too_large, too_many

PAGES = frozenset({"/", "/docs", "/redoc"})
"""Pages that people open in a browser."""


def stopping() -> ApiError:
    return ApiError(
        503,
        "the server is shutting down; try again",
        headers={"Connection": "close", "Retry-After": "5"},
        reason="stopping",
    )


class Gate:
    """The layer around an application.

    Args:
        paths: those of routes. Other paths are one series of the metrics, so that clients cannot add series.
        probes: paths that need no key and are served while the server stops. Every other path needs a
            key, also one that does not exist.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        state: State,
        paths: Container[str] = (),
        probes: Container[str] = (),
    ) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.state = state
        self.paths = paths
        self.probes = probes
        self.keys = [key.encode() for key in settings.api_keys]
        self.root = settings.root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await self.app(scope, receive, send)
            return
        path = self._path(scope)
        if (refused := self._refused(scope)) is not None:
            await self._refusing(error_response(refused), path, scope, receive, send)
            return
        if self.root:
            # Starlette then matches routes whether or not the proxy strips the prefix.
            scope["root_path"] = self.root
        if self.settings.request_id_headers:
            send = self._with_request_id(scope, send)
        if (
            self.keys
            and path not in self.probes
            and scope["method"] != "OPTIONS"
            and not self._has_key(scope)
        ):
            await self._refusing(self._unauthorized(path, scope), path, scope, receive, send)
            return
        if self.state.draining and path not in self.probes:
            scope[REASON] = "stopping"
            await self._refusing(error_response(stopping()), path, scope, receive, send)
            return
        await self._measured(path, scope, receive, send)

    def _refused(self, scope: Scope) -> ApiError | None:
        """Returns the refusal of a head that is too large, or None. The protocol refuses endless heads."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if len(headers) > self.settings.max_header_count:
            return too_many(len(headers), self.settings.max_header_count)
        size = len(scope["path"]) + len(scope["query_string"])
        for name, value in headers:
            size += len(name) + len(value)
        if size > self.settings.max_header_bytes:
            return too_large(self.settings.max_header_bytes)
        return None

    def _path(self, scope: Scope) -> str:
        path: str = scope["path"]
        return path.removeprefix(self.root) or "/" if self.root else path

    def _has_key(self, scope: Scope) -> bool:
        """Returns whether the request has one of the keys. Takes the same time for any token, which so
        reveals neither the length of a match nor which key matched."""
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"basic":  # from a browser's own prompt, where the key is the password
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() != b"bearer":
            return False
        matches = [hmac.compare_digest(token, key) for key in self.keys]
        return any(matches)

    def _unauthorized(self, path: str, scope: Scope) -> Response:
        # A browser that gets the Basic scheme asks its user for the key.
        in_browser = "text/html" in (header(scope, b"accept") or "") and path in PAGES
        headers = {
            "WWW-Authenticate": ('Basic realm="poolrt: any user name, the API key as password"')
            if in_browser
            else "Bearer"
        }
        return Response(orjson.dumps({"error": "Unauthorized"}), 401, headers, "application/json")

    def _with_request_id(self, scope: Scope, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = identified(scope)
            await send(message)

        return sending

    async def _refusing(
        self, refusal: Response, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Sends a refusal in place of the application's response, and measures it like any response."""
        started = time.perf_counter()
        self._count_refusal(path, refusal.status_code, scope)
        await refusal(scope, receive, send)
        handler = path if path in self.paths else "none"
        seconds, sent = time.perf_counter() - started, len(refusal.body)
        self.metrics.http(scope["method"], handler, refusal.status_code, seconds, declared_bytes(scope), sent)

    async def _measured(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status: int | None = None
        sent = 0

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        epoch = self.state.epoch
        epoch.running += 1
        self.state.in_flight += 1
        try:
            await self.app(scope, receive, sending)
        except asyncio.CancelledError:
            # At the end of its time to shut down the server cancels the requests that are left.
            if not self.state.draining or status is not None:
                raise
            scope[REASON] = "stopping"
            await error_response(stopping())(scope, receive, sending)
        finally:
            self.state.in_flight -= 1
            epoch.running -= 1
            if (hold := scope.get(HELD)) is not None:
                hold.give_back()
            if (observe := scope.get(OBSERVE)) is not None:
                observe()
            route = scope.get("route")
            handler = route.path if route is not None else "none"
            if status is not None and status >= 400:
                self._count_refusal(path, status, scope)
            self.metrics.http(
                scope["method"],
                handler,
                status or 500,
                time.perf_counter() - started,
                declared_bytes(scope),
                sent,
            )

    def _count_refusal(self, path: str, status: int, scope: Scope) -> None:
        """Counts a refusal by its reason. A probe that reports that the server is not ready is none."""
        reason = scope.get(REASON, REASONS.get(status))
        if reason is not None and path not in self.probes:
            self.metrics.refused(reason)
