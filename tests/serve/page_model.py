"""A model of pages that reads nothing but colours, so that where it looks is known beforehand.

A feature is the mean colour of its patch, and the name of a colour looks for that colour."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from poolrt.runtime.artifact.images import Images, Patches

from tests.runtime import picture_models as tiny

CELL = 2 * tiny.PATCH
"""Pixels of a feature's side."""
PATCHES = Patches(size=tiny.PATCH, merge=2, temporal=2, min_pixels=64, max_pixels=CELL * CELL * 200)
PAGES = replace(tiny.PICTURES, patches=PATCHES, videos=None)
COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
WHITE = np.uint8(255)


def write(
    folder: Path, *, images: Images = PAGES, scoring: str = "late-interaction", name: str = "pages"
) -> Path:
    """Writes the artifact and returns its folder."""
    see = np.zeros((3, 2, tiny.PATCH, tiny.PATCH, tiny.WIDTH), np.float32)
    for channel in range(3):
        see[channel, ..., channel] = 1 / (2 * tiny.PATCH**2)
    table = tiny.TABLE * np.float32(0.05)
    table[:, 3] += 1  # words are alike, and unlike every colour
    for word, colour in COLOURS.items():
        row = len(tiny.SPECIAL) + list[str](tiny.WORDS).index(word)
        table[row] = 0
        table[row, :3] = colour
    with mock.patch.multiple(
        tiny,
        SEE=see.reshape(tiny.VALUES, tiny.WIDTH),
        PLACES=tiny.PLACES * 0,
        TABLE=table,
        AXES=tiny.AXES * 0,
    ):
        return tiny.write(folder, images=images, scoring=scoring, name=name, max_tokens=512)


def page(rows: int, columns: int, **cells: tuple[int, int]) -> np.ndarray:
    """[height, width, 3]: white, with one cell of each colour at (row, column)."""
    pixels = np.full((rows * CELL, columns * CELL, 3), WHITE)
    for word, (row, column) in cells.items():
        part = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        part[:] = [255 if value > 0 else 0 for value in COLOURS[word]]
    return pixels


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def url(pixels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
