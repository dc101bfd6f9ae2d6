"""Pictures of every shape and kind that a model meets, drawn by whole-number arithmetic.

Arrays need nothing to be read. Encoded ones (palette, CMYK, 16 bits a channel, turned by EXIF) are written
here byte by byte and decoded by Pillow, as a client's would be.
"""

from __future__ import annotations

import importlib.util
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
ORIENTATION, TURNED = 0x0112, 6
"""The tag of EXIF that says how a camera was held, and a quarter turn."""


def sources() -> dict[str, Pixels]:
    """Name -> an array [height, width] or [height, width, bands], or the bytes of a file [size].

    Without Pillow there are no encoded ones.
    """
    drawings = {
        "40 x 70": pattern(40, 70),
        "200 x 100": pattern(200, 100),
        "33 x 500": pattern(33, 500),
        "transparent": pattern(60, 44, bands=4),
        "grey": pattern(50, 30, bands=1)[..., 0],
        "1 x 1": pattern(1, 1),
    }
    if importlib.util.find_spec("PIL") is None:
        return drawings
    files = {
        "palette": _palette(36, 52),
        "16 bits": _deep(40, 28),
        "turned by EXIF": _turned(48, 20),
        "CMYK": _cmyk(30, 46),
    }
    return {**drawings, **{name: np.frombuffer(data, np.uint8) for name, data in files.items()}}


def strip() -> dict[str, Pixels]:
    """One picture that large models read as few tiles or patches, because it is long and low."""
    return {"120 x 8": pattern(120, 8)}


def source_of(stored: Pixels) -> Pixels | bytes:
    """What the runtime's preparation takes: an array as it is, a file as bytes."""
    return stored.tobytes() if stored.ndim == 1 else stored


def pattern(width: int, height: int, *, bands: int = 3) -> Pixels:
    """[height, width, bands]: slopes, edges and noise."""
    y, x, band = (axis.astype(np.uint32) for axis in np.ogrid[:height, :width, :bands])
    noise = (x * 2654435761 + y * 2246822519 + band * 3266489917) >> 27
    return ((x * (2 + band) + y * (4 - band) + ((x // 9 + y // 7) % 2) * 96 + noise) & 255).astype(np.uint8)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, colour: int, rows: NDArray[np.uint8], *chunks: bytes) -> bytes:
    """`rows`: [height, bytes of a row]; `chunks`: what stands in front of the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    unfiltered = b"".join(b"\0" + row.tobytes() for row in rows)
    pixels = _chunk(b"IDAT", zlib.compress(unfiltered))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


def _palette(width: int, height: int) -> bytes:
    """256 colours, one of them transparent."""
    colours = pattern(256, 1)[0].tobytes()
    opaque = _chunk(b"tRNS", bytes([0]))
    return _png(
        width, height, 8, 3, pattern(width, height, bands=1)[..., 0], _chunk(b"PLTE", colours), opaque
    )


def _deep(width: int, height: int) -> bytes:
    """16 bits a channel; the lower byte is that of another place."""
    upper = pattern(width, height)
    both = np.stack([upper, upper[::-1]], axis=-1)
    return _png(width, height, 16, 2, both.reshape(height, -1))


def _turned(width: int, height: int) -> bytes:
    exif = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, ORIENTATION, 3, 1, TURNED) + b"\0\0\0\0"
    return _png(width, height, 8, 2, pattern(width, height).reshape(height, -1), _chunk(b"eXIf", exif))


def _cmyk(width: int, height: int) -> bytes:
    """An uncompressed TIFF of four inks."""
    pixels = pattern(width, height, bands=4).tobytes()
    start = 8
    bits = start + len(pixels)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 4, bits), (259, 3, 1, 1), (262, 3, 1, 5),
        (273, 4, 1, start), (277, 3, 1, 4), (278, 3, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, 1),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    places = struct.pack("<4H", 8, 8, 8, 8)
    directory = bits + len(places)
    return (
        struct.pack("<2sHI", b"II", 42, directory) + pixels + places + struct.pack("<H", len(tags)) + table
        + b"\0\0\0\0"
    )  # fmt: skip
