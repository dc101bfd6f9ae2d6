"""Runs a model from an endpoint without holding a thread while the engine works.

Preparing texts happens in a thread (tokenizers release the GIL there), waiting happens in the event loop, and when the client goes away
first, what is still queued is taken out of the line. Every step is timed once, for the metrics and for TEI's timing headers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from ..runtime.errors import DeadlineExceeded
from ..runtime.pending import Pending
from ..runtime.worker import Answer
from .errors import ApiError
from .metrics import Metrics
from .registry import Served
from .settings import Settings
from .state import State

Result = TypeVar("Result")

HEAVY_ITEMS = 64
"""From so many items on an answer is finished in a thread: other requests should not wait for its arithmetic."""


@dataclass(slots=True)
class Times:
    """Seconds one request spent, for its headers."""

    started: float
    tokenise_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    tokens: int = 0

    def headers(self) -> dict[str, str]:
        """TEI's, in milliseconds."""
        return {
            "x-total-time": f"{(time.perf_counter() - self.started) * 1e3:.1f}",
            "x-tokenization-time": f"{self.tokenise_s * 1e3:.1f}",
            "x-queue-time": f"{self.queue_s * 1e3:.1f}",
            "x-inference-time": f"{self.engine_s * 1e3:.1f}",
            "x-compute-tokens": str(self.tokens),
        }


class Workshop:
    """The threads of the serving layer, and the way through them."""

    def __init__(self, settings: Settings, metrics: Metrics, state: State) -> None:
        self.settings = settings
        self.metrics = metrics
        self.state = state
        self.threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="poolrt-serve")

    async def thread(self, step: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.threads, step)

    async def run(self, request: Request, served: Served, start: Callable[[float | None], Pending[Result]]) -> tuple[Result, Times]:
        """`start(deadline_s)` prepares and submits, in a thread. Raises what the runtime raises, ApiError 499 for a client that left."""
        self.state.load += self.settings.track_load
        try:
            return await self._run(request, served, start)
        finally:
            self.state.load -= self.settings.track_load

    async def _run(self, request: Request, served: Served, start: Callable[[float | None], Pending[Result]]) -> tuple[Result, Times]:
        times = Times(time.perf_counter())
        limit = self.settings.request_timeout_s
        pending = await self.thread(lambda: start(limit))
        times.tokenise_s = time.perf_counter() - times.started
        answer = await self._wait(request, pending, None if limit is None else max(limit - times.tokenise_s, 0.0))
        times.queue_s, times.engine_s, times.tokens = answer.queue_s, answer.engine_s, answer.tokens
        if pending.count >= HEAVY_ITEMS:
            result = await self.thread(lambda: pending.finish(answer))
        else:
            result = pending.finish(answer)
        observed = self.metrics.of(served.name)
        if observed is not None:
            observed.finished(
                prompts=pending.count,
                tokens=answer.tokens,
                tokenise_s=times.tokenise_s,
                queue_s=answer.queue_s,
                engine_s=answer.engine_s,
                total_s=time.perf_counter() - times.started,
            )
        return result, times

    async def _wait(self, request: Request, pending: Pending[Any], limit: float | None) -> Answer:
        answered = asyncio.wrap_future(pending.future)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            done, _ = await asyncio.wait((answered, gone), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if answered in done:
                return answered.result()
            answered.cancel()  # cancels the worker's future too: what is queued leaves the line
            if gone in done:
                raise ApiError(499, "the client closed the connection")
            raise DeadlineExceeded("not computed in the time that was given; try again later, or raise --request-timeout")
        finally:
            gone.cancel()

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


async def _disconnected(request: Request) -> None:
    """Returns when the client closes the connection; its body has been read before."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
