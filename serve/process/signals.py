"""SIGHUP, which a closed terminal sends, ends a server as SIGTERM does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def on_hangup(handler: Callable[[int, FrameType | None], None]) -> None:
    """Has `handler` called for SIGHUP. Under nohup it stays ignored, and outside the main thread as it is."""
    if (
        hasattr(signal, "SIGHUP")  # not on Windows
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGHUP, handler)
