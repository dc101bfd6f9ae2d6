"""Futures of the workers' threads, awaited by the event loop at little cost.

`asyncio.wrap_future` writes to the loop's wake-up socket for every answer, and watching each connection
takes a task per request. Here a batch of answers wakes the loop once, and one task looks after all waiting
requests several times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

from starlette.types import Receive

from .request_body import arrived

LOOK_S = 0.1
"""How long a client may be gone before its work is taken out of the queue."""


class Gone(Exception):
    """The client closed its connection."""


class Late(Exception):
    """The request's time is over."""


class Waiting:
    """One per event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._awake = False
        self._watched: dict[asyncio.Future[Any], tuple[Receive, float | None]] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def result(self, future: Future[Any], receive: Receive, *, limit_s: float | None) -> Any:
        """The future's result. Raises what it raises; Gone or Late, after cancelling it."""
        waiter = self._loop.create_future()
        future.add_done_callback(functools.partial(self._deliver, waiter))
        self._watched[waiter] = (receive, None if limit_s is None else time.monotonic() + limit_s)
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())
        try:
            return await waiter
        except BaseException:
            # Also when the handler itself is cancelled: what is still queued leaves the line.
            future.cancel()
            raise
        finally:
            self._watched.pop(waiter, None)
            # Both hold an error whose traceback holds this frame: all that it saw would stay until the
            # next collection of cycles.
            del waiter, future

    def _deliver(self, waiter: asyncio.Future[Any], future: Future[Any]) -> None:
        """Called in the worker's thread."""
        self._done.append((waiter, future))
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        # Cleared first: what comes while this empties the queue may wake the loop once too
        # often, never once too few.
        self._awake = False
        while self._done:
            waiter, future = self._done.popleft()
            if waiter.done():
                continue
            if future.cancelled():
                waiter.cancel()
            elif (error := future.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(future.result())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        # No part of `_watch`, which would hold its last waiter, with thousands of an answer's rows,
        # until the next request.
        for waiter, (receive, deadline) in list(self._watched.items()):
            if waiter.done():
                continue
            if deadline is not None and now >= deadline:
                waiter.set_exception(Late())
            elif disconnected(receive):
                waiter.set_exception(Gone())

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()


def disconnected(receive: Receive) -> bool:
    """Whether the client has gone. The body has been read, so a disconnect is all that can come."""
    message = arrived(receive)
    return message is not None and message["type"] == "http.disconnect"
