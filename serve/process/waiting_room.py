"""The open port of a server that still pulls artifacts or exports checkpoints.

`/live` is 200 from the start; `/health`, `/ready` and `/ping` are 503 with the step that is under way. A
browser gets the playground, which shows that step until the models are there. Every other route is 503 with
Retry-After. The sockets then go to the server itself: they stay open in between, so a client that connects
meanwhile waits and is served.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..endpoints.routes import PROBES
from ..errors import ApiError, error_response
from ..http import parting
from ..http.access import Gate
from ..metrics.prometheus import Metrics
from ..metrics.state import State
from ..models.registry import Registry
from ..pages import playground
from ..settings import Settings
from .progress import Progress
from .server import uvicorn_options
from .signals import stopping

RETRY_S = 5
"""Seconds after which a client may ask again."""
STOP_S = 5.0
"""Seconds that the room's own server gets to end."""
FRESH_S = 1.0
"""Seconds that a connection gets to send its request when the room ends."""


@contextlib.contextmanager
def waiting_room(settings: Settings, sockets: Sequence[socket.socket], progress: Progress) -> Iterator[None]:
    """Serves the room while the body of the `with` prepares the models. SIGTERM and SIGHUP end an export,
    then the process, as Ctrl-C does.

    Args:
        sockets: bound ones, which stay open; none: the unix socket of the settings.
        progress: runs the exports of the body.
    """
    options: dict[str, Any] = {**uvicorn_options(settings), "lifespan": "off"}
    server = Room(uvicorn.Config(_app(settings, progress), **options))
    copies = [sock.dup() for sock in sockets]
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": copies or None}, name="poolrt-waiting-room", daemon=True
    )
    thread.start()

    def stop(number: int, frame: object) -> None:
        progress.stop()
        raise KeyboardInterrupt

    try:
        with stopping(stop):
            yield
    finally:
        server.should_exit = True
        thread.join(STOP_S)
        for sock in copies:
            sock.close()


class Room(uvicorn.Server):
    """Answers the connections that it has accepted before it ends; later ones wait for the server."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await parting.last_requests(self, idle_s=0, fresh_s=FRESH_S)
        await super().shutdown(sockets)


def is_browser(request: Request) -> bool:
    """Whether a person looks, and no program that takes any 200 for a server that is ready."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def _app(settings: Settings, progress: Progress) -> Gate:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        retry = {"Retry-After": str(RETRY_S)}
        if path == "/live":
            response = Response()
        elif path in PROBES:
            response = Response(orjson.dumps(progress.plain()), 503, retry, "application/json")
        elif path == "/" and is_browser(request := Request(scope)):
            response = await playground.page(request)
        else:
            text = f"the models are still being prepared ({progress.plain()['step']}); /ready tells how far"
            response = error_response(ApiError(503, text, headers=retry))
        response.headers["Connection"] = "close"  # else it would be cut at the end of this room
        await response(scope, receive, send)

    state = State()
    metrics = Metrics(Registry([]), state, engine=False)
    return Gate(answer, settings=settings, metrics=metrics, state=state, paths=PROBES, probes=PROBES)
