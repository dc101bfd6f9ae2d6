"""Keeps what libraries print while an export runs apart from the report."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

OUT, ERR = 1, 2


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Sends what libraries print to standard error, so that standard output holds the command's report alone.

    Libraries print from below Python too (tokenizers: `Ignored unknown kwarg option __type`), so the file
    descriptor itself is redirected, for the whole process. Only commands may use this, no library or server.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(OUT)
            os.dup2(ERR, OUT)
        except OSError:  # one of the two is closed
            yield
            return
        try:
            yield
        finally:
            _flush_c()
            os.dup2(kept, OUT)
            os.close(kept)


def _flush_c() -> None:
    """Flushes C's buffers, which would otherwise be written behind the report when the process ends."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def silent_transformers() -> Iterator[None]:
    """Silences transformers' progress bars and load reports. The callers check what these would report."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
