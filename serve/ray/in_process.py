"""Runs an ASGI application without a server: its lifespan, and one request at a time as values."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message

from .exchange import Answered, Exchange


class InProcess:
    """An application whose lifespan this object drives. All methods are called in one event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._replies: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None
        self._running: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Raises RuntimeError with what the application says."""
        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        coroutine: Any = self.app(scope, self._events.get, self._replies.put)
        self._lifespan = asyncio.ensure_future(coroutine)
        await self._passed("startup")

    async def stop(self, timeout_s: float | None = None) -> None:
        """Stops the application after the requests that it has, which get so much time; None: no limit."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        if self._lifespan is not None:
            await self._passed("shutdown")
            await self._lifespan
            self._lifespan = None

    async def _passed(self, step: str) -> None:
        assert self._lifespan is not None, "start comes first"
        await self._events.put({"type": f"lifespan.{step}"})
        reply = asyncio.ensure_future(self._replies.get())
        await asyncio.wait({reply, self._lifespan}, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            reply.cancel()
            self._lifespan.result()  # raises what ended it
            raise RuntimeError(f"the application ended at {step}")
        if reply.result()["type"] != f"lifespan.{step}.complete":
            raise RuntimeError(reply.result().get("message") or f"{step} failed")

    async def respond(self, request: Exchange) -> Answered:
        """The response of the application. Cancelling it is the client's going away."""
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": request.query,
            "root_path": "",
            "headers": list(request.headers),
            "client": request.client,
            "server": None,
        }
        bodies = [{"type": "http.request", "body": request.body, "more_body": False}]
        gone = asyncio.Event()
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            if bodies:
                return bodies.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                parts.append(bytes(message.get("body", b"")))

        running: asyncio.Future[None] = asyncio.ensure_future(self.app(scope, receive, send))  # pyright: ignore[reportArgumentType]
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            gone.set()  # the application takes its items out of the queue
            running.add_done_callback(_read)
            raise
        headers = tuple((bytes(name), bytes(value)) for name, value in start["headers"])
        return Answered(start["status"], headers, b"".join(parts))


def _read(future: asyncio.Future[None]) -> None:
    """Takes note of a result that nobody waits for."""
    if not future.cancelled():
        future.exception()
