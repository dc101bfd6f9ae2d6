"""The rule `anyres`: LLaVA-NeXT's. The picture is scaled to fit the best of several resolutions, padded with
black around its middle and cut by rows; the whole picture, squashed to one tile, comes first.

The features of the tiles are laid out as one large grid, those of padding are left out, and a row for a
line's end stands behind each line. It is the last row of every tile's features.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cut import WHOLE, Cut, Kit, Planes, Region, pieces

DIGITS = 7
"""To which the authors round a size in features before they cut it down to a whole number."""


def cut(kit: Kit, planes: Planes) -> Cut:
    size: tuple[int, int] = planes.shape[1], planes.shape[2]
    side = kit.images.height, kit.images.width
    canvas = resolution(kit.tiling.resolutions, *size)
    tall, wide = fitted(canvas, *size)
    down, across = canvas[0] // side[0], canvas[1] // side[1]
    kit.check((down * across + 1) * side[0] * side[1])
    padded = np.zeros((3, *canvas), np.uint8)
    top, left = (canvas[0] - tall) // 2, (canvas[1] - wide) // 2
    padded[:, top : top + tall, left : left + wide] = kit.scaled(planes, tall, wide)
    regions: list[Region] = [
        (
            (column * side[1] - left) / wide,
            (row * side[0] - top) / tall,
            ((column + 1) * side[1] - left) / wide,
            ((row + 1) * side[0] - top) / tall,
        )
        for row in range(down)
        for column in range(across)
    ]
    order = features(kit.images.tokens, (down, across), size)
    return Cut(
        tiles=[kit.scaled(planes, *side), *pieces(padded, *side)],
        text=kit.images.token * len(order),
        regions=(WHOLE, *regions),
        order=order,
    )


def resolution(resolutions: tuple[tuple[int, int], ...], height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) that shows most pixels of a picture and wastes fewest."""
    chosen, most, least = resolutions[0], 0, math.inf
    for tall, wide in resolutions:
        scale = min(wide / width, tall / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        wasted = tall * wide - shown
        if shown > most or (shown == most and wasted < least):
            chosen, most, least = (tall, wide), shown, wasted
    return chosen


def fitted(canvas: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Returns the largest height and width of a picture that fit a canvas."""
    down, across = canvas[0] / height, canvas[1] / width
    if across < down:
        return min(math.ceil(height * across), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(width * down), canvas[1])


def features(rows: int, grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Returns the rows of features that a picture's tokens stand for, of all tiles behind one another.

    Args:
        rows: of one tile, a square and the end of a line.
        grid: rows and columns of tiles; a tile with the whole picture comes before them.
        size: height and width of the picture in pixels.
    """
    edge = math.isqrt(rows - 1)
    down, across = grid
    numbers = np.arange((1 + down * across) * rows, dtype=np.int64).reshape(-1, rows)
    cells = numbers[1:, : edge * edge].reshape(down, across, edge, edge)
    cells = cells.transpose(0, 2, 1, 3).reshape(down * edge, across * edge)
    cells = _unpadded(cells, *size)
    ends = np.full((len(cells), 1), numbers[0, -1])
    return np.concatenate([numbers[0, : edge * edge], np.concatenate([cells, ends], axis=1).reshape(-1)])


def _unpadded(cells: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """The cells of a grid [rows, columns] that show the picture: as many are left out at both ends."""
    tall, wide = cells.shape
    if width / height > wide / tall:
        cut = (tall - int(round(height * (wide / width), DIGITS))) // 2
        return cells[cut : tall - cut]
    cut = (wide - int(round(width * (tall / height), DIGITS))) // 2
    return cells[:, cut : wide - cut]
