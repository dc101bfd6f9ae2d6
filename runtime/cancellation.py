"""Giving up long preparation whose caller has gone: the caller's thread asks between its steps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

_thread = threading.local()


@contextlib.contextmanager
def watched(gone: Callable[[], bool]) -> Iterator[None]:
    """Within it, `check` in this thread looks whether the caller has gone."""
    _thread.gone = gone
    try:
        yield
    finally:
        _thread.gone = None


def check() -> None:
    """Raises CancelledError when this thread's caller has gone."""
    gone = getattr(_thread, "gone", None)
    if gone is not None and gone():
        raise CancelledError
