"""Pictures for tests, made of numbers: the same bytes with every version of every library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> PNG's colour type: grey, grey with alpha, RGB, RGBA."""


def painted(width: int, height: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """Waves, noise and one sharp rectangle, [height, width, channels]: what a resize has to get right."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    across, down, start = (generator.uniform(low, high, channels) for low, high in ((0.02, 0.3),) * 3)
    wave = np.sin(across * x[..., None] + start) * np.cos(down * y[..., None])
    values = 127 + 70 * wave + generator.normal(0, 25, (height, width, channels))
    values[height // 4 : height // 2, width // 4 : width // 2] = generator.integers(0, 256, channels)
    return np.clip(values, 0, 255).astype(np.uint8)


def png(values: NDArray[np.uint8]) -> bytes:
    """A PNG file of [height, width, channels], not interlaced."""
    height, width, channels = values.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), values.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, KINDS[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def url(content: bytes, kind: str = "image/png") -> str:
    """A data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
