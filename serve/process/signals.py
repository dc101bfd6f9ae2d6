"""SIGHUP, which a closed terminal sends, ends a server as SIGTERM does. Under nohup it stays ignored."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


def on_hangup(handler: Handler) -> None:
    """Has `handler` called for SIGHUP."""
    if is_main() and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, handler)


@contextlib.contextmanager
def stopping(handler: Handler) -> Iterator[None]:
    """Has `handler` called for SIGTERM and SIGHUP."""
    if not is_main():
        yield
        return
    names = ("SIGTERM", "SIGHUP")
    before = {name: signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)}
    signal.signal(signal.SIGTERM, handler)
    on_hangup(handler)
    try:
        yield
    finally:
        for name, handling in before.items():
            signal.signal(getattr(signal, name), handling)


def is_main() -> bool:
    """Whether this is the main thread, which alone may set handlers."""
    return threading.current_thread() is threading.main_thread()
