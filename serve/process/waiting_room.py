"""The open port of a server that still pulls artifacts or exports checkpoints.

`/live` is 200 from the start; `/health`, `/ready` and `/ping` are 503 with the step that is under way; every
other route is 503 with Retry-After. The sockets then go to the server itself: they stay open in between, so a
client that connects meanwhile waits and is served.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..endpoints.routes import PROBES
from ..errors import ApiError, error_response
from ..http.access import Gate
from ..metrics.prometheus import Metrics
from ..metrics.state import State
from ..models.registry import Registry
from ..settings import Settings
from .server import uvicorn_options

log = logging.getLogger("poolrt.serve")

RETRY_S = 5
"""Seconds after which a client may ask again."""
STOP_S = 5.0
"""Seconds that the room's own server gets to end."""
_STEP = re.compile(r"\[(?P<number>\d+)/(?P<of>\d+)\] (?P<step>.+) \.\.\.")
"""A line with which `poolrt export` begins a step."""


class Progress:
    """What goes on before the models are opened. Written by the main thread, read by the room's."""

    def __init__(self, *, as_log: bool = False) -> None:
        self._as_log = as_log
        self._begun = self._step_begun = time.monotonic()
        self._step: dict[str, object] = {"step": "looking for the artifacts"}
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, program: Sequence[str]) -> tuple[int, str]:
        """Runs an export and shows what it says. Returns its exit code, and where the reason is."""
        # Its standard output goes to stderr, since ours belongs to whoever started this server.
        with subprocess.Popen(program, stdout=2, stderr=subprocess.PIPE) as child:
            self._child = child
            assert child.stderr is not None, "it is a pipe"
            for line in child.stderr:
                self.say(line.decode(errors="replace").rstrip("\n"))
        self._child = None
        return child.returncode, "see above"

    def say(self, line: str) -> None:
        if (match := _STEP.search(line)) is not None:
            self._step_begun = time.monotonic()
            self._step = {
                "step": match["step"],
                "number": int(match["number"]),
                "of": int(match["of"]),
            }
        if self._as_log:
            log.info("%s", line)
        else:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Ends the export that runs now."""
        if (child := self._child) is not None:
            child.terminate()

    def plain(self) -> dict[str, object]:
        """The body of /ready."""
        now = time.monotonic()
        return {
            "status": "preparing",
            **self._step,
            "step_seconds": round(now - self._step_begun, 1),
            "seconds": round(now - self._begun, 1),
        }


@contextlib.contextmanager
def waiting_room(
    settings: Settings, sockets: Sequence[socket.socket], *, as_log: bool = False
) -> Iterator[Progress]:
    """Serves the room while the body of the `with` prepares the models. SIGTERM ends an export, then the
    process, as Ctrl-C does.

    Args:
        sockets: bound ones, which stay open; none: the unix socket of the settings.
        as_log: lines of an export are lines of the log.
    """
    progress = Progress(as_log=as_log)
    options: dict[str, Any] = {**uvicorn_options(settings), "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(_app(settings, progress), **options))
    copies = [sock.dup() for sock in sockets]
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": copies or None}, name="poolrt-waiting-room", daemon=True
    )
    thread.start()

    def stop(number: int, frame: object) -> None:
        progress.stop()
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield progress
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
        server.should_exit = True
        thread.join(STOP_S)
        for sock in copies:
            sock.close()


def _app(settings: Settings, progress: Progress) -> Gate:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        retry = {"Retry-After": str(RETRY_S)}
        if path == "/live":
            response = Response()
        elif path in PROBES:
            response = Response(orjson.dumps(progress.plain()), 503, retry, "application/json")
        else:
            text = f"the models are still being prepared ({progress.plain()['step']}); /ready tells how far"
            response = error_response(ApiError(503, text, headers=retry))
        response.headers["Connection"] = "close"  # else it would be cut at the end of this room
        await response(scope, receive, send)

    state = State()
    metrics = Metrics(Registry([]), state, engine=False)
    return Gate(answer, settings=settings, metrics=metrics, state=state, paths=PROBES, probes=PROBES)
