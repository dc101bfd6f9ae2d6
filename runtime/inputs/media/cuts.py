"""The scheme `tiles`: pictures cut by the rules of `tilings`, as rows of the vision graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..items import VisionItem
from ..tilings import anyres, grids, hd
from ..tilings.cut import Kit, Planes, Region, Rule
from . import tiles
from .normalise import normalise
from .options import Settings
from .resize import resized
from .rows import fixed_row

RULES: dict[str, Rule] = {"grid": grids.cut, "anyres": anyres.cut, "hd": hd.cut}
"""Rule of `Tiling` -> its function. `idefics3`, which scales several times, stands in `tiles`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The rows of a picture that was cut, and what stands for them in a prompt; fields as of `Cut`."""

    items: list[VisionItem]
    text: str
    regions: tuple[Region, ...]
    order: NDArray[np.int64] | None = None


def rows(settings: Settings, planes: Planes, *, most_pixels: int, field: str) -> Tiles:
    """Returns the tiles of a picture [3, height, width].

    Args:
        most_pixels: of all tiles together.
        field: named by errors.
    """
    images, tiling = settings.images, tiles.facts(settings.images)
    if tiling.rule not in RULES:
        items, down, across = tiles.rows(
            images,
            planes,
            split=settings.split,
            resize=settings.resize,
            most_pixels=most_pixels,
            field=field,
        )
        regions = tiles.regions(down, across, len(items))
        return Tiles(items=items, text=tiles.text(images, down, across), regions=regions)

    def normalised(part: Planes) -> NDArray[np.float32]:
        values = part.astype(np.float32)
        normalise(values, images.mean, images.std, images.kernel, axis=0)
        return values

    kit = Kit(
        images=images,
        tiling=tiling,
        scaled=lambda part, height, width: resized(
            part, height, width, resample=images.resample, kernel=images.kernel
        ),
        normalised=normalised,
        check=lambda pixels: tiles.check_pixels(pixels, most_pixels, field),
    )
    cut = RULES[tiling.rule](kit, planes)
    values = np.empty((len(cut.tiles), *cut.tiles[0].shape), np.float32)
    items = [fixed_row(images, tile, values[place]) for place, tile in enumerate(cut.tiles)]
    return Tiles(items=items, text=cut.text, regions=cut.regions, order=cut.order)
