"""Pictures cut by the rules of `tilings`: their tiles as rows of the vision graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..items import VisionItem
from ..tilings import anyres, grids, hd
from ..tilings.cut import Cut, Kit, Planes, Rule
from . import tiles
from .normalise import normalise
from .options import Settings
from .resize import resized
from .rows import fixed_row

RULES: dict[str, Rule] = {"grid": grids.cut, "anyres": anyres.cut, "hd": hd.cut}
"""Rule of `Tiling` -> its function. `idefics3` stands in `tiles`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The rows of a picture that was cut, and what stands for them in a prompt."""

    items: list[VisionItem]
    cut: Cut


def rows(settings: Settings, planes: Planes, *, most_pixels: int, field: str) -> Tiles:
    """Returns the tiles of a picture [3, height, width].

    Args:
        most_pixels: of all tiles together.
        field: named by errors.
    """
    images, tiling = settings.images, tiles.facts(settings.images)

    def check(pixels: int) -> None:
        if pixels > most_pixels:
            raise InputError(
                f"tiles of a picture would have {pixels} pixels, at most {most_pixels} are prepared; "
                "scale it down",
                field=field,
            )

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
        check=check,
    )
    cut = RULES[tiling.rule](kit, planes)
    values = np.empty((len(cut.tiles), *cut.tiles[0].shape), np.float32)
    items = [fixed_row(images, tile, values[place]) for place, tile in enumerate(cut.tiles)]
    return Tiles(items=items, cut=cut)
