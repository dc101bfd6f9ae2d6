"""Runs a model from an endpoint without holding a thread while the engine works.

Texts are prepared in a thread (tokenizers release the GIL there), and the event loop waits for the result.
When the client leaves before, its items are taken out of the queue. Every step is timed once, for the metrics
and for TEI's timing headers.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ..runtime import cancellation
from ..runtime.batching.pending import Pending
from ..runtime.batching.worker import Answer
from ..runtime.errors import DeadlineExceeded
from .errors import ApiError
from .http.futures import Gone, Late, Waiting
from .http.memory_budget import Budget
from .http.request_body import BODY_BYTES, LIGHT_BYTES
from .media.attaching import Attached, Prompts, attached
from .media.reading import Reader
from .metrics.prometheus import OBSERVE, Metrics
from .metrics.state import State
from .metrics.times import TIMES, Times
from .models.registry import Registry, Served
from .responses import heavy, response_headers
from .settings import Settings

if TYPE_CHECKING:
    from .tracing.spans import Tracing

Result = TypeVar("Result")

TOKEN_BYTES = 4
"""Bytes of text per token, roughly: texts that are being prepared are counted as tokens to come."""
PICTURE_TOKEN_BYTES = 1024
"""The same of requests with pictures."""
HEAVY_ITEMS = 64
"""The result of this many items is finished in a thread, so that other requests do not wait for its
arithmetic."""

PICTURE_THREADS = 8
"""Requests whose pictures are prepared at the same time. A request with many holds its thread while earlier
ones are computed, so there are more threads than processors."""

LATE = "not computed in the time that was given; try again later, or raise --request-timeout"


class Start(Protocol[Result]):
    """Prepares a request's texts and submits them."""

    def __call__(self, *, deadline_s: float | None) -> Pending[Result]: ...


Shape = Callable[[Result, Times, dict[str, str]], Response]
"""Makes the response from a result, its times, and its headers."""


class Workshop:
    """The threads of the serving layer, and how requests run in them."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        state: State,
        registry: Registry,
        *,
        unqueued: frozenset[str] = frozenset(),
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.state = state
        self.registry = registry
        self.budget = Budget(settings.max_pending_bytes)
        self.media = Reader(settings.media, count=metrics.media.read, tracing=tracing)
        self.is_traced = tracing is not None
        self.preparing_tokens = 0
        """Tokens of texts that are on their way to a queue; estimated."""
        self.unqueued = unqueued
        """Paths of routes that add nothing to a model's queue."""
        self.threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="poolrt-serve")
        # One thread only: reading a body is Python code, of which one thread runs at a time anyway, so more
        # threads would only make the event loop wait longer.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="poolrt-read")
        # Decoding a picture takes as long as tokenising a thousand texts, so texts never wait for it.
        self._pictures = ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="poolrt-pictures")
        self._waiting: Waiting | None = None

    def waiting(self) -> Waiting:
        if self._waiting is None:
            self._waiting = Waiting(asyncio.get_running_loop())
        return self._waiting

    async def attach(
        self, request: Request, served: Served, record: Any, prompts: Prompts
    ) -> Attached | None:
        """The pictures and videos of a request, fetched and not yet decoded; None where it has none, or the
        model reads text only. Raises ApiError and what `prompts` raises, which runs in a thread where the
        body is large."""
        return await attached(
            request,
            record,
            served.model,
            prompts,
            reader=self.media,
            budget=self.budget,
            settings=self.settings,
            thread=self.thread,
            count=self.metrics.media.prepared,
        )

    async def prepare(
        self, request: Request, pictures: Attached | None, step: Callable[[], Result]
    ) -> Result:
        """`step`, which prepares prompts and queues nothing, in a thread. Raises what it raises."""
        if pictures is None:
            return await self.thread(step)
        return await self.watched(self._pictures, request, step)

    async def thread(self, step: Callable[[], Result]) -> Result:
        """`step` in one of the threads. Raises what it raises."""
        step = self._carried(step)
        return await asyncio.get_running_loop().run_in_executor(self.threads, step)

    async def reading(self, request: Request, step: Callable[[], Result]) -> Result:
        """`step` in the thread that reads bodies. Raises what it raises, and ApiError 499 for a client that
        left."""
        return await self.watched(self._reader, request, step)

    async def watched(
        self, threads: ThreadPoolExecutor, request: Request, step: Callable[[], Result]
    ) -> Result:
        """`step` in one of `threads`; cancelled when the client leaves or the request's time is over. Raises
        what it raises, and ApiError 499 for a client that left."""
        gone = threading.Event()

        def run() -> Result:
            with cancellation.watched(gone.is_set):
                cancellation.check()
                return step()

        future = threads.submit(self._carried(run))
        try:
            return await self.waiting().result(
                future, request.receive, limit_s=self.settings.request_timeout_s
            )
        except BaseException as error:
            if not future.done() or future.cancelled():
                gone.set()
                future.add_done_callback(_abandon)
            if isinstance(error, Gone):
                raise ApiError(499, "the client closed the connection") from None
            if isinstance(error, Late):
                raise DeadlineExceeded(LATE) from None
            raise
        finally:
            del future  # it holds the error, whose traceback holds this frame and so the whole body

    async def answer(
        self,
        request: Request,
        served: Served,
        start: Start[Any],
        shape: Shape[Any],
        *,
        pictures: Attached | None = None,
    ) -> Response:
        """`run`, then the response that `shape` makes of the result: in a thread where the result is large.
        Raises what `run` and `shape` raise."""
        result, times = await self.run(request, served, start, pictures=pictures)
        begun = time.perf_counter()
        headers = response_headers(times, result, timing=self.settings.timing_headers)
        response = (
            await self.thread(lambda: shape(result, times, headers))
            if heavy(result)
            else shape(result, times, headers)
        )
        times.serialise_s = time.perf_counter() - begun
        return response

    async def run(
        self,
        request: Request,
        served: Served,
        start: Start[Result],
        *,
        in_thread: bool = False,
        pictures: Attached | None = None,
    ) -> tuple[Result, Times]:
        """The result of a request, and how long its steps took.

        `start` prepares and submits, in a thread. A light request is prepared in the event loop, unless
        `in_thread`. Where there are `pictures`, `start` decodes them, in threads of their own. Raises what
        the runtime raises, ApiError 499 for a client that left.
        """
        self.state.load += self.settings.track_load
        served.running += 1
        try:
            return await self._run(request, served, start, in_thread or pictures is not None, pictures)
        finally:
            served.running -= 1
            self.state.load -= self.settings.track_load

    async def _run(
        self,
        request: Request,
        served: Served,
        start: Start[Result],
        in_thread: bool,
        pictures: Attached | None,
    ) -> tuple[Result, Times]:
        times = request.scope[TIMES] = Times(time.perf_counter(), served.name)
        limit = self.settings.request_timeout_s
        # Tokenising a short text takes less time than waking a thread.
        light = request.scope[BODY_BYTES] <= LIGHT_BYTES and not in_thread
        pending = (
            start(deadline_s=limit)
            if light
            else await self._prepared(request, pictures, lambda: start(deadline_s=limit))
        )
        times.tokenise_s = time.perf_counter() - times.started
        times.prompts = pending.count
        try:
            answer: Answer = await self.waiting().result(pending.future, request.receive, limit_s=limit)
        except (Gone, Late) as stopped:
            if (observed := self.metrics.of(served.name)) is not None:
                observed.aborted(pending.count)
            if isinstance(stopped, Gone):
                raise ApiError(499, "the client closed the connection") from None
            raise DeadlineExceeded(LATE) from None
        times.answered_s = time.perf_counter() - times.started
        times.queue_s, times.engine_s, times.tokens = answer.queue_s, answer.engine_s, answer.tokens
        if pending.count >= HEAVY_ITEMS:
            result = await self.thread(lambda: pending.finish(answer))
        else:
            result = pending.finish(answer)
        times.total_s = time.perf_counter() - times.started
        count = pending.count

        def observe() -> None:
            if (observed := self.metrics.of(served.name)) is not None:
                observed.finished(
                    prompts=count,
                    tokens=times.tokens,
                    tokenise_s=times.tokenise_s,
                    queue_s=times.queue_s,
                    engine_s=times.engine_s,
                    total_s=times.total_s,
                )
                if times.serialise_s is not None:
                    observed.serialise.observe(times.serialise_s)

        request.scope[OBSERVE] = observe
        return result, times

    async def _prepared(
        self, request: Request, pictures: Attached | None, step: Callable[[], Pending[Result]]
    ) -> Pending[Result]:
        most = self.settings.max_queued_tokens
        threads, token_bytes = self.threads, TOKEN_BYTES
        if pictures is not None:
            threads, token_bytes = self._pictures, PICTURE_TOKEN_BYTES
        # A long text is often cut to a few tokens, so one request counts as an eighth of the queue at most
        # before its tokens are known.
        tokens = min(request.scope[BODY_BYTES] // token_bytes, (most or 0) // 8)
        self.preparing_tokens += tokens
        try:
            return await self.watched(threads, request, step)
        finally:
            self.preparing_tokens -= tokens

    def _carried(self, step: Callable[[], Result]) -> Callable[[], Result]:
        """`step` with the current span, which another thread would not have. Without traces it is `step`."""
        if not self.is_traced:
            return step
        return functools.partial(contextvars.copy_context().run, step)

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._pictures.shutdown(wait=False, cancel_futures=True)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._waiting is not None:
            self._waiting.close()


def _abandon(future: Future[Any]) -> None:
    """Takes the items of a client that left out of the queue."""
    if future.cancelled() or future.exception() is not None:
        return
    if isinstance(pending := future.result(), Pending):
        pending.cancel()
