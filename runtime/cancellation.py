"""Stops a long preparation whose caller has gone. The thread that prepares checks between its steps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

_thread = threading.local()


@contextlib.contextmanager
def watched(gone: Callable[[], bool]) -> Iterator[None]:
    """Within this context, `check` raises in this thread once `gone` returns True."""
    _thread.gone = gone
    try:
        yield
    finally:
        _thread.gone = None


def check() -> None:
    """Raises CancelledError if the caller of this thread has gone."""
    gone = getattr(_thread, "gone", None)
    if gone is not None and gone():
        raise CancelledError
