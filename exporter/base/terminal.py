"""What a command does with its terminal while it runs: prints progress, and ends on SIGTERM as on Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from ...runtime.command_line import terminal as screen

if TYPE_CHECKING:
    from .report import Say

# Seconds between signs of life during a step, on a terminal and in a log.
_TICK_TERMINAL, _TICK_LOG = 1.0, 30.0


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends an export as Ctrl-C does, with its unfinished folder removed."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress() -> Iterator[Say]:
    """Prints lines to stderr, and while a step is silent, how long it has been going on."""
    is_terminal, lock, stopped = sys.stderr.isatty(), threading.Lock(), threading.Event()
    last = {"line": "", "at": time.monotonic()}

    def say(line: str) -> None:
        with lock:
            if is_terminal:
                sys.stderr.write("\r\x1b[K")
                screen.step(line)
            else:
                print(line, file=sys.stderr, flush=True)
            last.update(line=line, at=time.monotonic())

    def tick() -> None:
        interval = _TICK_TERMINAL if is_terminal else _TICK_LOG
        while not stopped.wait(interval):
            with lock:
                spent = time.monotonic() - last["at"]
                if spent >= interval:
                    line = f"      still at it, {spent:.0f} s"
                    sys.stderr.write(f"\r\x1b[K{line}" if is_terminal else f"{line}\n")
                    sys.stderr.flush()

    thread = threading.Thread(target=tick, daemon=True, name="poolrt-progress")
    thread.start()
    try:
        yield say
    finally:
        stopped.set()
        thread.join()
        if is_terminal:
            sys.stderr.write("\r\x1b[K")
