"""Rules that cut pictures into tiles, beside what vLLM 0.32 made of the same pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from poolrt.runtime.artifact.images import Images, Tiling
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.limits import PictureLimits
from poolrt.runtime.inputs.tilings import grids

from tests.pictures import HALF, digest, drawn

SIDE, TOKENS = 32, 4
# Most tiles, width x height -> rows, columns, and the digest of all tiles' bytes with the overview.
GRIDS: dict[str, tuple[int, int, str]] = {
    "1 40x70": (1, 1, "70b4461c63e5c90d85538054"),
    "1 200x100": (1, 1, "c6dbf5314d9c07362f716be2"),
    "1 33x500": (1, 1, "5b2529d7ad294862cd723f6d"),
    "1 1x1": (1, 1, "06169dbd99f47c027d4c72ba"),
    "1 500x33": (1, 1, "dbe169b59f5123d9737cae81"),
    "1 224x224": (1, 1, "4b10795933764dbe5f619e7b"),
    "1 300x300": (1, 1, "328b9f08428f95b4ed163a81"),
    "1 640x481": (1, 1, "f988ebafa24c0d857247a32e"),
    "1 100x75": (1, 1, "2ae45dfd3576ece76f877ad5"),
    "1 90x160": (1, 1, "3a8219056d570ccc3e5f77ef"),
    "1 64x200": (1, 1, "64bef8868cab01cfc4545d92"),
    "2 40x70": (2, 1, "f1ac6c74b0ba8d24aad5cd6f"),
    "2 200x100": (1, 2, "3847428aeb2a9a0ba260838d"),
    "2 33x500": (2, 1, "eb279790dd0f60c2830b28f2"),
    "2 1x1": (1, 1, "06169dbd99f47c027d4c72ba"),
    "2 500x33": (1, 2, "7e9fcc277465c16f72e36cf5"),
    "2 224x224": (1, 1, "4b10795933764dbe5f619e7b"),
    "2 300x300": (1, 1, "328b9f08428f95b4ed163a81"),
    "2 640x481": (1, 2, "8a2a1f439715885aa03dcc24"),
    "2 100x75": (1, 2, "e301b0598a90df09631b8716"),
    "2 90x160": (2, 1, "e58189e02c237a54535511fa"),
    "2 64x200": (2, 1, "3f2680dd7d06bc9b67819dca"),
    "6 40x70": (2, 1, "f1ac6c74b0ba8d24aad5cd6f"),
    "6 200x100": (2, 3, "492b514ef557af55e25d69d7"),
    "6 33x500": (6, 1, "fa8d777254e4bcd40a4e40e2"),
    "6 1x1": (1, 1, "06169dbd99f47c027d4c72ba"),
    "6 500x33": (1, 6, "eefe641f06b23ecf1f351a22"),
    "6 224x224": (2, 2, "7e5688f53d14e9516d13bb10"),
    "6 300x300": (2, 2, "e7fbd636c5176669066735d1"),
    "6 640x481": (2, 3, "64c4f583b27f6fb4e1b39366"),
    "6 100x75": (2, 3, "442a87470d1ffc6eb1c048cc"),
    "6 90x160": (3, 2, "02583749da34839ab52179a1"),
    "6 64x200": (4, 1, "a1eaae94e827d602d268d7bb"),
    "12 40x70": (2, 1, "f1ac6c74b0ba8d24aad5cd6f"),
    "12 200x100": (2, 4, "a75635e7c64f9900677d534e"),
    "12 33x500": (12, 1, "61e9bb461d5ff303e1bc2dd4"),
    "12 1x1": (1, 1, "06169dbd99f47c027d4c72ba"),
    "12 500x33": (1, 12, "9c0d60d0fde34f028ec01c64"),
    "12 224x224": (3, 3, "9885c7babdefe64078d96abd"),
    "12 300x300": (3, 3, "8f884710d3b7340f0b7f14e9"),
    "12 640x481": (3, 4, "34d2d09d0634279cc1c390c3"),
    "12 100x75": (3, 4, "96ad3bfeb80c05c7a263a333"),
    "12 90x160": (4, 2, "4a0395724daef4a8b25f4bd4"),
    "12 64x200": (6, 2, "5af43d305973019f43a97d10"),
}


def facts(most: int) -> Images:
    return Images(
        scheme="tiles",
        resample="bicubic",
        kernel="pillow",
        mean=HALF,
        std=HALF,
        height=SIDE,
        width=SIDE,
        tiling=Tiling(rule="grid", most_tiles=most),
        tokens=TOKENS,
        placeholder="<img>#</img>",
        token="#",
    )


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_and_its_tiles_are_those_of_vllm(name: str) -> None:
    most, size = name.split()
    width, height = map(int, size.split("x"))
    rows, columns, hashed = GRIDS[name]
    medium = prepared.image(facts(int(most)), drawn(width, height))
    tiles = np.stack([item.arrays["pixel_values"] for item in medium.items])
    pixels = np.round((tiles * 0.5 + 0.5) * 255).astype(np.uint8)
    count = rows * columns + (rows * columns > 1)
    assert grids.grid(int(most), (SIDE, SIDE), height, width) == (rows, columns)
    assert digest(pixels).split()[-1] == hashed
    assert len(tiles) == len(medium.regions) == count
    assert medium.text == "<img>" + "#" * TOKENS * count + "</img>"
    assert medium.tokens == TOKENS * count


def test_tiles_are_counted_before_they_are_made() -> None:
    with pytest.raises(InputError, match="tiles of a picture would have 5120 pixels, at most 5000"):
        prepared.image(facts(6), drawn(64, 200), limits=PictureLimits(prepared_pixels=5000))


def test_without_an_overview_the_tiles_are_alone() -> None:
    images = replace(facts(6), tiling=Tiling(rule="grid", most_tiles=6, overview=False))
    assert len(prepared.image(images, drawn(200, 100)).items) == 6
