"""The rule `grid`: InternVL's grids of tiles as NVIDIA scores them (Llama-Nemotron-VL).

The picture is squashed to the grid whose shape and area suit it best and cut by rows. Where there is more
than one tile, the whole picture as one tile follows.
"""

from __future__ import annotations

import math

from .cut import WHOLE, Cut, Kit, Planes, parts, pieces

ENOUGH = 0.6
"""Of a picture's area: a grid that has it is not preferred for having more."""


def cut(kit: Kit, planes: Planes) -> Cut:
    height, width = planes.shape[1:]
    side = kit.images.height, kit.images.width
    down, across = grid(kit.tiling.most_tiles, side, height, width)
    several = down * across > 1
    kit.check((down * across + several) * side[0] * side[1])
    whole = kit.scaled(planes, down * side[0], across * side[1])
    tiles, regions = pieces(whole, *side), parts(down, across)
    if several and kit.tiling.overview:
        tiles.append(kit.scaled(planes, *side))
        regions.append(WHOLE)
    tokens = kit.images.token * (kit.images.tokens * len(tiles))
    return Cut(tiles=list(tiles), text=tokens, regions=tuple(regions))


def grid(most: int, side: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Returns the rows and columns of tiles for a picture.

    Args:
        most: tiles of a grid.
        side: height and width of a tile in pixels.
    """
    ratio, area = width / height, width * height
    best, chosen = -math.inf, (1, 1)
    for across, down in _candidates(most):
        share = min(across * down * side[0] * side[1] / area, ENOUGH)
        target = across / down
        score = share * min(target / ratio, ratio / target)
        if score > best:
            best, chosen = score, (down, across)
    return chosen


def _candidates(most: int) -> list[tuple[int, int]]:
    """(columns, rows) of all grids, by area. Grids of one area stand in the order of a set that is filled as
    the published code fills it, because the first of equally good ones is taken."""
    shapes = {
        (across, down)
        for count in range(1, most + 1)
        for across in range(1, count + 1)
        for down in range(1, count + 1)
        if across * down <= most
    }
    return sorted(shapes, key=lambda shape: shape[0] * shape[1])
