"""How many bytes of pictures and videos one request may bring, from wherever they come."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ApiError


class Allowance:
    """The bytes that one request may still read. For the thread of the event loop or one other at a time.

    Args:
        most: bytes of all pictures and videos of the request together.
        hold: takes bytes from the budget of all requests. Raises ApiError (429).
    """

    def __init__(self, most: int, hold: Callable[[int], None]) -> None:
        self.most = most
        self.left = most
        self._hold = hold

    def declare(self, size: int) -> None:
        """Raises ApiError for a size that is more than what is left, before anything is read."""
        if size > self.left:
            raise self._refused()

    def take(self, size: int) -> None:
        """Counts bytes that were read. Raises ApiError where they are too many."""
        self.declare(size)
        self.left -= size
        self._hold(size)

    def _refused(self) -> ApiError:
        text = (
            f"the pictures and videos of the request take more than {self.most} bytes; send smaller ones, or "
            "raise --max-media-bytes on the server"
        )
        return ApiError(422, text, param="image_url")
