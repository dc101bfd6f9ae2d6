"""Draws one page of a PDF as a PNG, in a process of its own: `pdf_drawing.py FOLDER PAGE < PDF > PNG`.

PDF is a large and old format, and whoever sends a file may have written it to break its reader. So the reader
gets no secret, no file and no second chance: its environment is empty, and before it reads a byte it limits
its own memory, time, open files and written bytes. `pdf.py` starts it and waits no longer than that. PDFium's
builds in pypdfium2 have neither JavaScript nor XFA forms.

Imports nothing of poolrt, because it runs without it. Its last line on stderr is a JSON object: `width`,
`height` and `pages`, or `refused`, a sentence for people.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import zlib
from contextlib import suppress
from typing import Any

MEMORY_BYTES = 1024 * 1024 * 1024
"""Address space. Drawing a page of 2000 * 2800 pixels takes 150 MB."""
PROCESSOR_S = 10
"""More than any page that people read takes: one of a thousand paths takes 0.1 s."""
LONGER_SIDE = 2048
"""Pixels of the drawn page: 175 dpi of A4. The models that read pages scale them to 2 megapixels or less."""
SHORTER_SIDE = 16
"""Pixels. A strip that is thinner cannot be read."""
PNG_BYTES = 64 * 1024 * 1024
"""More than the pixels of a page take when they do not shrink at all."""
POINTS_PER_PIXEL = 72 / 175


class RefusedPdf(Exception):
    """The sentence that the page shows."""


def confine() -> None:
    """Takes the limits upon this process. Systems without them (Windows) bound the time only, from
    outside."""
    try:
        import resource
    except ImportError:
        return
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, PROCESSOR_S),
        (resource.RLIMIT_FSIZE, PNG_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        # A system may know a limit and still refuse it (RLIMIT_AS on macOS).
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def drawn(data: bytes, number: int) -> tuple[bytes, dict[str, int]]:
    """The PNG of page `number` (from 1), and its `width`, `height` in pixels and the `pages` of the document.
    Raises RefusedPdf."""
    library: Any = importlib.import_module("pypdfium2")
    try:
        document = library.PdfDocument(data)
    except library.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise RefusedPdf(
            "this PDF is protected by a password; save it without one"
            if locked
            else "this is no PDF that can be read"
        ) from None
    pages = len(document)
    if not 1 <= number <= pages:
        raise RefusedPdf(f"this PDF has {pages} page{'' if pages == 1 else 's'}, and no page {number}")
    try:
        page = document[number - 1]
        width, height = page.get_size()
        scale = min(1 / POINTS_PER_PIXEL, LONGER_SIDE / max(width, height, 1e-3))
        if not min(width, height) * scale >= SHORTER_SIDE:
            raise RefusedPdf(f"page {number} is {width:g} x {height:g} points, which is no page")
        bitmap = page.render(scale=scale, rev_byteorder=True)
    except library.PdfiumError:
        raise RefusedPdf(f"page {number} of this PDF cannot be read") from None
    image = png(bitmap.buffer, bitmap.width, bitmap.height, bitmap.stride, bitmap.n_channels)
    return image, {"width": bitmap.width, "height": bitmap.height, "pages": pages}


def png(pixels: Any, width: int, height: int, stride: int, channels: int) -> bytes:
    """A PNG of rows of bytes: 1 (grey), 3 (RGB) or 4 channels, of which the fourth is left out.

    Args:
        pixels: a buffer of `height` rows, each `stride` bytes long.
    """
    view = memoryview(pixels).cast("B")
    rows = []
    for row in range(height):
        line = view[row * stride : row * stride + width * channels]
        if channels == 4:
            opaque = bytearray(width * 3)
            for channel in range(3):
                opaque[channel::3] = line[channel::4]
            line = opaque
        rows.append(b"\0" + bytes(line))
    colour = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(b"".join(rows), 6)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def main() -> int:
    folder, number = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, folder)
    confine()
    try:
        image, facts = drawn(sys.stdin.buffer.read(), number)
    except RefusedPdf as refused:
        sys.stderr.write("\n" + json.dumps({"refused": str(refused)}))
        return 1
    except MemoryError:
        sys.stderr.write("\n" + json.dumps({"refused": f"page {number} of this PDF needs too much memory"}))
        return 1
    sys.stdout.buffer.write(image)
    sys.stdout.buffer.flush()
    sys.stderr.write("\n" + json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
