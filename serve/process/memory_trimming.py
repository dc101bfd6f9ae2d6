"""Returns memory to the system after a peak. glibc keeps freed memory, which may be gigabytes after a burst
of large requests."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap

LOOK_S = 5.0
"""Seconds between two checks."""
WORTH_BYTES = 48 << 20
"""A process that grew by this much since the last trim is trimmed."""


class Trimming:
    """Decides when to trim. The check is cheap and runs in the event loop, the trim runs in a thread."""

    def __init__(self) -> None:
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):  # not glibc
            self._trim = None
        self._least = self._rested = self._peak = resident_bytes()
        self._running: asyncio.Future[None] | None = None

    def look(self, *, idle: bool) -> None:
        """Starts a trim where it is worth it. `idle`: no request is running."""
        if self._trim is None or (self._running is not None and not self._running.done()):
            return
        now = resident_bytes()
        if not now:
            return
        self._least, self._peak = min(self._least, now), max(self._peak, now)
        # A trim under load cannot return what is in use. So there is another one once the load is over.
        rests = idle and self._peak - self._rested > WORTH_BYTES
        if rests or now - self._least > WORTH_BYTES:
            self._running = asyncio.get_running_loop().run_in_executor(None, self._run, rests)

    def _run(self, rests: bool) -> None:
        assert self._trim is not None
        if rests:
            gc.collect()
        self._trim(0)
        # What remains is in use, so the next trim waits until the process has grown again.
        self._least = resident_bytes()
        if rests:
            self._rested = self._peak = self._least


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0
