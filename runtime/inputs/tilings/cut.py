"""What a rule of tiling reads and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Images, Tiling

Planes = NDArray[np.uint8]
"""A picture [3, height, width]."""
Region = tuple[float, float, float, float]
"""Left, top, right and bottom, as parts of the picture's width and height. Beyond 0..1 where a picture that
is smaller than the graph's has black beside it."""
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What a rule works with."""

    images: Images
    tiling: Tiling
    scaled: Callable[[Planes, int, int], Planes]
    """(picture, height, width) -> the picture of that size, by the manifest's filter and kernel."""
    normalised: Callable[[Planes], NDArray[np.float32]]
    """Bytes -> the numbers that the graph reads."""
    check: Callable[[int], None]
    """Raises InputError for so many pixels of all tiles together, where they are too many. Called before
    anything large is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A picture that was cut."""

    tiles: list[Planes | NDArray[np.float32]]
    """[3, height, width] of the graph's size, in the order of its rows: bytes, or numbers that are
    normalised already."""
    text: str
    """What stands for the tiles in a prompt, with a token for each feature."""
    regions: tuple[Region, ...]
    """The part of the picture that each tile shows."""
    order: NDArray[np.int64] | None = None
    """[tokens]: the features that the tokens stand for, as rows of all tiles' features behind one another;
    a row may stand for several tokens or for none. None: all, in their order."""


Rule = Callable[[Kit, Planes], Cut]


def pieces(canvas: Planes, height: int, width: int) -> list[Planes]:
    """The tiles of a picture whose sides are multiples of theirs, by rows."""
    return [
        canvas[:, top : top + height, left : left + width]
        for top in range(0, canvas.shape[1], height)
        for left in range(0, canvas.shape[2], width)
    ]


def parts(down: int, across: int) -> list[Region]:
    """What each of `down` * `across` tiles shows of a picture that fills them."""
    return [
        (column / across, row / down, (column + 1) / across, (row + 1) / down)
        for row in range(down)
        for column in range(across)
    ]
