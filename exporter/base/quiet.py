"""What libraries print while an export runs, kept away from the report."""

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

    Libraries print from below Python too (tokenizers: `Ignored unknown kwarg option __type`), so
    the file descriptor itself is redirected. That concerns the whole process: for a command, not
    for a library or a server.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(OUT)
            os.dup2(ERR, OUT)
        except OSError:  # one of them is closed
            yield
            return
        try:
            yield
        finally:
            _flush_c()
            os.dup2(kept, OUT)
            os.close(kept)


def _flush_c() -> None:
    """What C libraries have buffered would else be written when the process ends, behind the report."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def silent_transformers() -> Iterator[None]:
    """Silences transformers' progress bars and load reports: what they would report is checked
    and raised by the callers."""
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
