"""The scheme `tiles`: a picture is cut into tiles of the graph's size, and the whole is scaled to one more.

The rule is Idefics3's: two or three resizes behind one another, as its processor does them.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ...artifact.images import Images, Tiling
from ...errors import InputError
from ..items import VisionItem
from ..tilings.cut import WHOLE, Region, parts, pieces
from .resize import resized
from .rows import Planes, digest, fixed_row

MOST_SIDE = 4096
"""Pixels of the scaled picture before it is cut (Idefics3)."""


def rows(
    images: Images,
    planes: Planes,
    *,
    split: bool = True,
    resize: bool = True,
    most_pixels: int,
    field: str,
) -> tuple[list[VisionItem], int, int]:
    """Returns the rows of a picture [3, height, width], and how many rows and columns of tiles there are.

    These are 0 and 0 where it was not cut.

    Args:
        split: whether it may be cut; if not, it is squashed to one tile.
        resize: whether it is scaled to `squashed` or to the tiling's longest edge first.
        most_pixels: of all tiles together.
        field: named by errors.
    """
    tiling, source = facts(images), planes
    if not split:
        return (
            [fixed_row(images, single(images, planes, resize=resize, most_pixels=most_pixels, field=field))],
            0,
            0,
        )
    if resize:
        planes = _first(images, planes, most_pixels, field)
    height, width = _multiple(images, *planes.shape[1:])
    check_pixels(height * width, most_pixels, field)
    planes = _scaled(images, planes, height, width)
    down, across = planes.shape[1] // images.height, planes.shape[2] // images.width
    if down == across == 1:
        return [fixed_row(images, planes)], 0, 0
    tiles = pieces(planes, images.height, images.width)
    if tiling.overview:
        tiles.append(_scaled(images, planes, images.height, images.width))
    # One array for all of them: fresh memory is what costs time here.
    values = np.empty((len(tiles), *tiles[0].shape), np.float32)
    keys = _keys(images, source, len(tiles), resize) if source.size < planes.size else ()
    items = [
        fixed_row(images, tile, values[place], keys[place] if keys else None)
        for place, tile in enumerate(tiles)
    ]
    return items, down, across


def single(images: Images, planes: Planes, *, resize: bool = True, most_pixels: int, field: str) -> Planes:
    """A picture [3, height, width] that is squashed to one tile; arguments as of `rows`."""
    whole = _first(images, planes, most_pixels, field) if resize else planes
    return _scaled(images, whole, images.height, images.width)


def _first(images: Images, planes: Planes, most_pixels: int, field: str) -> Planes:
    """The picture as it is scaled before it is cut."""
    height, width = images.squashed or _longest(facts(images), *planes.shape[1:])
    check_pixels(height * width, most_pixels, field)
    return _scaled(images, planes, height, width)


def regions(down: int, across: int, count: int) -> tuple[Region, ...]:
    """What each of `count` rows shows of the picture: a tile its part, any other the whole."""
    tiles = parts(down, across)
    return (*tiles, *[WHOLE] * (count - len(tiles)))


def check_pixels(pixels: int, most: int, field: str) -> None:
    """Raises InputError for so many pixels of all tiles together, where they are more than `most`."""
    if pixels > most:
        raise InputError(
            f"tiles of a picture would have {pixels} pixels, at most {most} are prepared; scale it down",
            field=field,
        )


def facts(images: Images) -> Tiling:
    assert images.tiling is not None, "a manifest with the scheme `tiles` says how to cut"
    return images.tiling


def text(images: Images, down: int, across: int) -> str:
    """What stands for the tiles in a prompt."""
    tiling = facts(images)
    tokens = images.token * images.tokens
    if down == 0:
        return tiling.single_text.replace("{tokens}", tokens)
    parts: list[str] = []
    for row in range(1, down + 1):
        for column in range(1, across + 1):
            tile = tiling.tile_text.replace("{row}", str(row)).replace("{column}", str(column))
            parts.append(tile.replace("{tokens}", tokens))
        parts.append(tiling.row_end)
    if tiling.overview:
        parts.append(tiling.overview_text.replace("{tokens}", tokens))
    return "".join(parts)


def _keys(images: Images, source: Planes, count: int, resize: bool) -> list[bytes]:
    """Digests of the tiles of a picture that is smaller than they are together: of its pixels, of all that
    decides what becomes of them, and of a tile's place."""
    whole = digest(images, source.transpose(1, 2, 0), images.kernel) + repr((images, resize)).encode()
    return [hashlib.sha256(b"%d " % place + whole).digest() for place in range(count)]


def _scaled(images: Images, planes: Planes, height: int, width: int) -> Planes:
    return resized(planes, height, width, resample=images.resample, kernel=images.kernel)


def _longest(tiling: Tiling, height: int, width: int) -> tuple[int, int]:
    """The longer side at the tiling's longest edge, the other even."""
    ratio, edge = width / height, tiling.longest_edge
    if width >= height:
        height, width = int(edge / ratio), edge
        height += height % 2
    else:
        height, width = edge, int(edge * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > MOST_SIDE:
        height, width = int(MOST_SIDE / ratio), MOST_SIDE
    elif height > width and height > MOST_SIDE:
        height, width = MOST_SIDE, int(MOST_SIDE * ratio)
    return max(height, 1), max(width, 1)


def _multiple(images: Images, height: int, width: int) -> tuple[int, int]:
    """Both sides rounded up to multiples of a tile's."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / images.width) * images.width
        height = math.ceil(int(width / ratio) / images.height) * images.height
    else:
        height = math.ceil(height / images.height) * images.height
        width = math.ceil(int(height * ratio) / images.width) * images.width
    return height, width
