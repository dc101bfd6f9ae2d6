"""Progress of a job: rows, rows per second and the time that is left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

QUIET_S = 30.0
"""Seconds between two lines where stderr is no terminal."""
REDRAWN_S = 0.2


class Meter:
    """Counts rows, and writes how far a job is: over one line of a terminal, else a line now and then.

    Args:
        rows: of the whole input.
        before: of them, those that an earlier call computed.
        file: None writes nothing.
    """

    def __init__(
        self,
        rows: int,
        before: int = 0,
        *,
        file: TextIO | None = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows = rows
        self.done = before
        self._before = before
        self._file = file
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._terminal = file is not None and file.isatty()
        self._next = self._begun + (0 if self._terminal else QUIET_S)
        self._written = False

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    @property
    def rate(self) -> float:
        """Rows per second of this call."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    def add(self, rows: int) -> None:
        with self._lock:
            self.done += rows
            if self._clock() >= self._next:
                self._next = self._clock() + (REDRAWN_S if self._terminal else QUIET_S)
                self._show()

    def close(self) -> None:
        """Leaves the last line of a terminal standing."""
        if self._written and self._terminal and self._file is not None:
            self._show()
            print(file=self._file, flush=True)

    def text(self) -> str:
        left = (self.rows - self.done) / self.rate if self.done > self._before else None
        percent = 100 * self.done / self.rows if self.rows else 100
        eta = "" if left is None else f", {span(left)} left"
        return f"{self.done:,} of {self.rows:,} rows ({percent:.1f} %), {self.rate:,.1f} rows/s{eta}"

    def _show(self) -> None:
        if self._file is None:
            return
        self._written = True
        if self._terminal:
            print(f"\r\x1b[K{self.text()}", end="", file=self._file, flush=True)
        else:
            print(self.text(), file=self._file, flush=True)


def span(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
