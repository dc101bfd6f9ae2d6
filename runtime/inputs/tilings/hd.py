"""The rule `hd`: Phi-3-Vision's. The picture is scaled to as many tiles in its longer side as the limit
allows, padded with white to whole tiles and cut by rows; the whole picture as one tile comes first.

The features of the tiles are laid out as one large grid. Rows for a line's end and for the border between the
two views are the last two rows of every tile's features.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cut import WHOLE, Cut, Kit, Planes, Region, pieces

SHARPNESS = np.float32(-0.75)
"""The coefficient of torch's bicubic kernel."""
Floats = NDArray[np.float32]


def cut(kit: Kit, planes: Planes) -> Cut:
    side = kit.images.height
    turned = planes.shape[2] < planes.shape[1]
    if turned:
        planes = planes.swapaxes(1, 2)
    down, across, tall = grid(kit.tiling.most_tiles, side, planes.shape[1], planes.shape[2])
    kit.check((down * across + 1) * side * side)
    canvas = np.full((3, down * side, across * side), 255, np.uint8)
    top = (down * side - tall) // 2
    canvas[:, top : top + tall] = kit.scaled(planes, tall, across * side)
    if turned:
        canvas, (down, across) = canvas.swapaxes(1, 2), (across, down)
    order = features(kit.images.tokens, (down, across), overview_first=kit.tiling.overview_first)
    return Cut(
        tiles=[smaller(kit.normalised(canvas), side), *pieces(canvas, side, side)],
        text=kit.images.token * len(order),
        regions=(WHOLE, *_regions(down, across, side, top, tall, turned=turned)),
        order=order,
    )


def grid(most: int, side: int, height: int, width: int) -> tuple[int, int, int]:
    """Returns the rows and columns of tiles of a picture that is at least as wide as it is high, and its
    height in pixels when its width fills the columns.

    Args:
        most: tiles.
        side: of a tile, in pixels.
    """
    ratio = width / height
    across = 1
    while (across + 1) * math.ceil((across + 1) / ratio) <= most:
        across += 1
    tall = max(int(across * side / ratio), 1)
    return math.ceil(tall / side), across, tall


def _regions(down: int, across: int, side: int, top: int, tall: int, *, turned: bool) -> list[Region]:
    """The part of the picture that each tile shows; white stands above and below it, or beside it where it
    was turned."""

    def edge(pixel: int, length: int, *, padded: bool) -> float:
        return (pixel - top) / tall if padded else pixel / length

    return [
        (
            edge(column * side, across * side, padded=turned),
            edge(row * side, down * side, padded=not turned),
            edge((column + 1) * side, across * side, padded=turned),
            edge((row + 1) * side, down * side, padded=not turned),
        )
        for row in range(down)
        for column in range(across)
    ]


def features(rows: int, shape: tuple[int, int], *, overview_first: bool) -> NDArray[np.int64]:
    """Returns the rows of features that a picture's tokens stand for, of all tiles behind one another.

    Args:
        rows: of one tile: a square, the end of a line, the border between the views.
        shape: rows and columns of tiles; a tile with the whole picture comes before them.
    """
    edge = math.isqrt(rows - 2)
    down, across = shape
    numbers = np.arange((1 + down * across) * rows, dtype=np.int64).reshape(-1, rows)
    end, border = numbers[0, -2], numbers[0, -1:]
    cells = numbers[1:, : edge * edge].reshape(down, across, edge, edge)
    tiles = _lines(cells.transpose(0, 2, 1, 3).reshape(down * edge, across * edge), end)
    whole = _lines(numbers[0, : edge * edge].reshape(edge, edge), end)
    return np.concatenate([whole, border, tiles] if overview_first else [tiles, border, whole])


def _lines(cells: NDArray[np.int64], end: np.int64) -> NDArray[np.int64]:
    """The cells by lines, `end` behind each."""
    return np.concatenate([cells, np.full((len(cells), 1), end)], axis=1).reshape(-1)


def smaller(values: Floats, side: int) -> Floats:
    """A picture [3, height, width] as [3, side, side], by torch's bicubic interpolation without antialiasing
    (align_corners false): four taps in each direction, whatever the scale."""
    places, weights = _taps(values.shape[2], side)
    lines = np.zeros((*values.shape[:2], side), np.float32)
    for tap in range(4):
        lines += values[:, :, places[:, tap]] * weights[:, tap]
    places, weights = _taps(values.shape[1], side)
    square = np.zeros((values.shape[0], side, side), np.float32)
    for tap in range(4):
        square += lines[:, places[:, tap]] * weights[:, tap, None]
    return square


def _taps(size: int, side: int) -> tuple[NDArray[np.int64], Floats]:
    """[side, 4] each: the pixels that an output reads, and their weights."""
    scale = np.float32(size / side)
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(centres)
    part = centres - first
    places = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, size - 1)
    weights = np.stack([_far(part + 1), _near(part), _near(1 - part), _far(2 - part)], axis=1)
    return places, weights.astype(np.float32)


def _near(distance: Floats) -> Floats:
    """The kernel's weight of pixels up to 1 away."""
    return ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance * distance + 1


def _far(distance: Floats) -> Floats:
    """The kernel's weight of pixels 1 to 2 away."""
    return ((SHARPNESS * distance - 5 * SHARPNESS) * distance + 8 * SHARPNESS) * distance - 4 * SHARPNESS
