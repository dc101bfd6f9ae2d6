"""The result of a call while the worker computes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

from ..errors import DeadlineExceeded
from ..progress import Progress
from .queue import LATE, Answer, Ticket

Result = TypeVar("Result")
Other = TypeVar("Other")

_LOOK_S = 0.1


class Pending(Generic[Result]):
    """One call's work. Wait with `result()`, or await `asyncio.wrap_future(pending.future)` and then call
    `finish(answer)` in a thread.

    Cancelling removes from the queue what is not computed yet.
    """

    def __init__(
        self,
        future: Ticket,
        finish: Callable[[Answer], Result],
        *,
        count: int,
        deadline: float | None = None,
    ) -> None:
        self.future = future
        self.finish = finish
        self.count = count
        """Items submitted."""
        self._deadline = deadline

    def result(self, *, progress: Progress | None = None) -> Result:
        """Waits for the result; `progress` is called with the number of items that were computed meanwhile.
        Raises what the worker raises, and DeadlineExceeded even while the engine is still computing."""
        done = 0
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            try:
                answer = self.future.result(
                    left if progress is None else min(_LOOK_S, _LOOK_S if left is None else left)
                )
                break
            except FutureTimeout:
                if self._deadline is not None and time.monotonic() >= self._deadline and self.future.cancel():
                    raise DeadlineExceeded(LATE) from None
            except KeyboardInterrupt:
                self.future.cancel()
                raise
            if progress is not None and (now := self.future.done_items) > done:
                progress(now - done)
                done = now
        if progress is not None and self.count > done:
            progress(self.count - done)
        return self.finish(answer)

    def cancel(self) -> bool:
        return self.future.cancel()

    def then(self, step: Callable[[Result], Other]) -> Pending[Other]:
        """The same work with `step` called on the result of `finish`."""
        before = self.finish
        return Pending(
            self.future, lambda answer: step(before(answer)), count=self.count, deadline=self._deadline
        )
