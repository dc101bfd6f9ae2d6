"""How much memory prepared pictures take: one of 67 bytes becomes 600 kB of numbers.

What is prepared is counted until its arrays are freed, wherever they are by then.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from ..errors import ApiError


class PreparedBytes:
    """The prepared pictures of all requests. Any thread may use it.

    Args:
        most: bytes of one request at a time; all together may take twice as many.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._used = 0
        self._lock = threading.Lock()
        # Arrays are freed in any thread, at any moment: also in this one while it holds the lock.
        self._freed: deque[tuple[Share, int]] = deque()

    @property
    def used(self) -> int:
        """Bytes of the arrays that are not freed yet."""
        with self._lock:
            self._settle()
            return self._used

    def share(self) -> Share:
        """Returns what one request takes of it."""
        return Share(self)

    def take(self, share: Share, arrays: Iterable[NDArray[Any]]) -> None:
        """Counts arrays until they are freed. Raises ApiError: 400 where the request holds too much, 429
        where all together do, save for a request alone."""
        arrays = list(arrays)
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            self._settle()
            if share.used + size > self.most:
                raise ApiError(
                    400,
                    f"pictures of one prompt take more than {self.most} bytes once they are prepared; send "
                    "fewer or smaller ones",
                )
            if self._used > share.used and self._used + size > 2 * self.most:
                raise ApiError(
                    429,
                    f"the pictures of the requests at hand take more than {2 * self.most} bytes; try again",
                    headers={"Retry-After": "1"},
                )
            self._used += size
            share.used += size
        for array in arrays:
            weakref.finalize(array, self._freed.append, (share, array.nbytes)).atexit = False

    def _settle(self) -> None:
        """Counts out what was freed, under the lock."""
        while self._freed:
            share, size = self._freed.popleft()
            self._used -= size
            share.used -= size


class Share:
    """What one request holds."""

    def __init__(self, everything: PreparedBytes) -> None:
        self.used = 0
        self._everything = everything

    def take(self, arrays: Iterable[NDArray[Any]]) -> None:
        """Counts arrays until they are freed. Raises ApiError."""
        self._everything.take(self, arrays)
