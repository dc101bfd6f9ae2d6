"""Awaits futures of the workers' threads in the event loop, at little cost.

`asyncio.wrap_future` writes to the loop's wake-up socket for every result, and watching each connection takes
a task per request. Here a batch of results wakes the loop once, and one task checks all waiting requests
several times a second.
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
"""Time between two checks for clients that have left and requests that are late."""


class Gone(Exception):
    """The client closed its connection."""


class Late(Exception):
    """The request's time is over."""


class Waiting:
    """The requests of one event loop that wait for a result."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._awake = False
        self._watched: dict[asyncio.Future[Any], tuple[Receive, float | None]] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def result(self, future: Future[Any], receive: Receive, *, limit_s: float | None) -> Any:
        """Returns the future's result, or raises its error.

        Cancels the future and raises Gone when the client leaves, Late after `limit_s` seconds.
        """
        waiter = self._loop.create_future()
        future.add_done_callback(functools.partial(self._deliver, waiter))
        self._watched[waiter] = (receive, None if limit_s is None else time.monotonic() + limit_s)
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())
        try:
            return await waiter
        except BaseException:
            # Takes the work out of the queue, also when the handler itself is cancelled.
            future.cancel()
            raise
        finally:
            self._watched.pop(waiter, None)
            # An error of either future has a traceback, which holds this frame, which holds the futures.
            # Without the `del` that cycle would keep the request in memory until the next garbage collection.
            del waiter, future

    def _deliver(self, waiter: asyncio.Future[Any], future: Future[Any]) -> None:
        """Called in the worker's thread."""
        self._done.append((waiter, future))
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        # Clear the flag before draining: a result that arrives meanwhile then causes an extra wake-up, and
        # never a lost one.
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
        # A function of its own, because the frame of `_watch` lives on: it would hold the last waiter, and so
        # a result of thousands of rows, until the next request.
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
    """Returns whether the client has left. The body must have been read, so that nothing else can come."""
    message = arrived(receive)
    return message is not None and message["type"] == "http.disconnect"
