"""Pages of PDFs as pictures, for the playground.

A browser draws a PDF only for its own window: no page can read those pixels, and the libraries that draw with
JavaScript are megabytes that would need a looser policy. So the server draws, and treats the file as hostile:
PDFium runs in a process of its own (`pdf_drawing.py`) with limits on its memory, time and output, without the
server's environment, and two run at a time at most. It comes with the extra `pdf`; without it the playground
says how to install it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...runtime import cancellation
from ...runtime.errors import InputError
from ..errors import ApiError
from .pdf_drawing import PNG_BYTES

PDF_BYTES = 32 * 1024 * 1024
"""Of one file. A scanned book is larger; its reader can save a few pages."""
LIMIT_S = 20.0
"""For one page, starting the process included. The process itself may use less of a processor."""
MOST_AT_ONCE = 2
"""Processes of all requests together. The others wait, without holding a thread that prepares texts."""
LOOK_S = 0.02
REPORT_BYTES = 64 * 1024
"""Of what the process writes to stderr, the last bytes, which end with its report."""
UNINSTALLED = (
    "drawing the pages of a PDF needs pypdfium2, which is not installed on this server: pip install "
    "'poolrt[pdf]'"
)
_PROGRAM = Path(__file__).with_name("pdf_drawing.py")
THREADS = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="poolrt-pdf")
"""Where `drawn` is called."""


def is_installed() -> bool:
    return importlib.util.find_spec("pypdfium2") is not None


def drawn(data: bytes, number: int) -> tuple[bytes, dict[str, int]]:
    """Returns a page's PNG, and its `width` and `height` in pixels and the `pages` of its document.

    Call it in one of THREADS: it takes a fraction of a second, and up to LIMIT_S. Stops when the client has
    left.

    Args:
        data: the file.
        number: of the page, from 1.

    Raises InputError for a file or a page that cannot be drawn, ApiError (501) without the library.
    """
    library = importlib.util.find_spec("pypdfium2")
    if library is None or library.origin is None:
        raise ApiError(501, UNINSTALLED)
    if len(data) > PDF_BYTES:
        raise InputError(
            f"the PDF has {len(data)} bytes, at most {PDF_BYTES} are read; save fewer of its pages",
            field="pdf",
        )
    if b"%PDF-" not in data[:1024]:
        raise InputError("this is no PDF: it does not start with %PDF-", field="pdf")
    image, report = _run(data, number, Path(library.origin).parent.parent)
    if (refused := report.get("refused")) is not None:
        raise InputError(str(refused), field="pdf")
    facts = {name: report.get(name) for name in ("width", "height", "pages")}
    if not image.startswith(b"\x89PNG") or not all(type(value) is int for value in facts.values()):
        raise InputError(
            f"page {number} could not be drawn: it takes more memory or time than a page may", field="pdf"
        )
    return image, {name: int(value or 0) for name, value in facts.items()}


def _run(data: bytes, number: int, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns what the process wrote, and its report; nothing of both where it was stopped or failed.

    Files instead of pipes: nobody has to read and write at the same time, and the size of what comes back is
    known before it is read.
    """
    deadline = time.monotonic() + LIMIT_S
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as image, tempfile.TemporaryFile() as log:
        file.write(data)
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM), str(folder), str(number)],
            stdin=file,
            stdout=image,
            stderr=log,
            env=_environment(),
            cwd=tempfile.gettempdir(),
        )
        try:
            while not _ended(process):
                cancellation.check()
                if time.monotonic() > deadline or os.fstat(image.fileno()).st_size > PNG_BYTES:
                    return b"", {}
        finally:
            process.kill()
            process.wait()
        if process.returncode not in (0, 1):
            return b"", {}
        return _read(image, PNG_BYTES), _report(_read(log, REPORT_BYTES))


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; waits a moment for it."""
    try:
        process.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _environment() -> dict[str, str]:
    """Nothing of the server's: it may hold keys. Windows cannot start a program without the first two."""
    kept = ("SYSTEMROOT", "TEMP")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _read(file: Any, most: int) -> bytes:
    """The last `most` bytes of a file."""
    file.seek(0, os.SEEK_END)
    file.seek(max(file.tell() - most, 0))
    return file.read(most)


def _report(text: bytes) -> dict[str, Any]:
    """The JSON object in the last line; empty where there is none, as of a process that was killed."""
    try:
        report = json.loads(text.rpartition(b"\n")[2])
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}
