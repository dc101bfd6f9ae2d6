"""Gives memory back to the system after a peak: glibc keeps what was freed, and after a burst of large
requests that may be gigabytes."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap

LOOK_S = 5.0
WORTH_BYTES = 48 << 20
"""A process that grew by so much since it was last trimmed is trimmed."""


class Trimming:
    """Looked at from the event loop, at little cost; the trimming itself is done in a thread."""

    def __init__(self) -> None:
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):  # not glibc
            self._trim = None
        self._least = self._rested = self._peak = resident_bytes()
        self._running: asyncio.Future[None] | None = None

    def look(self, *, idle: bool) -> None:
        """`idle`: no request is running."""
        if self._trim is None or (self._running is not None and not self._running.done()):
            return
        now = resident_bytes()
        if not now:
            return
        self._least, self._peak = min(self._least, now), max(self._peak, now)
        # What a trim under load leaves is in use then, and free once the load is over: so there
        # is one more afterwards.
        rests = idle and self._peak - self._rested > WORTH_BYTES
        if rests or now - self._least > WORTH_BYTES:
            self._running = asyncio.get_running_loop().run_in_executor(None, self._run, rests)

    def _run(self, rests: bool) -> None:
        assert self._trim is not None
        if rests:
            gc.collect()
        self._trim(0)
        # What is still there is in use: it is not tried again before more has come.
        self._least = resident_bytes()
        if rests:
            self._rested = self._peak = self._least


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0
