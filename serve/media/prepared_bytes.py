"""How much memory prepared pictures may take: a picture of 67 bytes becomes 600 kB of numbers."""

from __future__ import annotations

import threading

from ..errors import ApiError


class PreparedBytes:
    """The prepared pictures of all requests. Any thread may use it.

    Args:
        most: bytes of one request; all together may take twice as many, one request alone is always admitted.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.lock = threading.Lock()

    def share(self) -> Share:
        """Returns what one request takes of it."""
        return Share(self)


class Share:
    """What one request has taken. Its thread may still take when the request is over, which has no effect."""

    def __init__(self, all_requests: PreparedBytes) -> None:
        self._all = all_requests
        self.size = 0
        self._over = False

    def take(self, size: int) -> None:
        """Raises ApiError: 400 where this request takes too much, 429 where all together do."""
        everything = self._all
        with everything.lock:
            if self._over:
                return
            if self.size + size > everything.most:
                raise ApiError(
                    400,
                    f"the pictures of the request take more than {everything.most} bytes once they are "
                    "prepared; send less per request",
                )
            if everything.used > self.size and everything.used + size > 2 * everything.most:
                raise ApiError(
                    429,
                    f"the pictures of the requests at hand take more than {2 * everything.most} bytes; try "
                    "again",
                    headers={"Retry-After": "1"},
                )
            everything.used += size
            self.size += size

    def release(self) -> None:
        """The request is over."""
        with self._all.lock:
            self._all.used -= self.size
            self.size = 0
            self._over = True
