"""Standard output belongs to a command's report: whatever a library prints meanwhile goes to standard error.

Libraries print from below Python too (tokenizers: `Ignored unknown kwarg option __type`), so the file descriptor itself is redirected.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

OUT, ERR = 1, 2


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Of the whole process, so for a command, not for a library or a server."""
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
