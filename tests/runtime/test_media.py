"""Pictures become rows of the vision graph: what holds for every source and scheme."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact.images import Images, Patches, Tiling
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media.medium import Run
from poolrt.runtime.inputs.media.prepared import image
from poolrt.runtime.inputs.multimodal.positions import mrope

HALF = (0.5, 0.5, 0.5)
PATCHES = Images(
    scheme="patches",
    resample="bicubic",
    mean=HALF,
    std=HALF,
    patches=Patches(size=16, merge=2, temporal=2, min_pixels=4096, max_pixels=1310720),
    placeholder="<start><pad><end>",
    token="<pad>",
)
TILES = Images(
    scheme="tiles",
    resample="lanczos",
    mean=HALF,
    std=HALF,
    height=64,
    width=64,
    tokens=4,
    placeholder="<image>",
    token="<image>",
    tiling=Tiling(
        rule="idefics3",
        longest_edge=128,
        tile_text="<r{row}c{column}>{tokens}",
        row_end="\n",
        overview_text="\n<all>{tokens}",
        single_text="<all>{tokens}",
    ),
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_patches_are_counted_in_the_text_and_in_the_grid():
    medium = image(PATCHES, picture(70, 40))
    (item,) = medium.items
    rows, columns = medium.grids[0]
    assert medium.text == "<start>" + "<pad>" * (rows * columns) + "<end>"
    assert item.rows == medium.tokens == rows * columns
    assert (
        item.cost
        == len(item.arrays["pixel_values"])
        == len(item.arrays["patch_positions"])
        == rows * columns * 4
    )


def test_the_patches_of_one_feature_stand_behind_one_another():
    positions = image(PATCHES, picture(64, 96)).items[0].arrays["patch_positions"]
    assert positions[:8].tolist() == [
        [row, column, 4, 6]
        for row, column in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    ]


def test_tiles_are_written_row_by_row_with_the_overview_behind_them():
    medium = image(TILES, picture(60, 100))
    tokens = "<image>" * 4
    assert medium.text == f"<r1c1>{tokens}<r1c2>{tokens}\n<r2c1>{tokens}<r2c2>{tokens}\n\n<all>{tokens}"
    assert len(medium.items) == len(medium.grids) == 5


def test_a_picture_that_may_not_be_split_is_one_tile():
    medium = image(TILES, picture(60, 100), options={"do_image_splitting": False})
    assert medium.text == "<all>" + "<image>" * 4
    assert len(medium.items) == 1


def test_equal_pictures_have_one_digest_and_others_another():
    digests = [
        image(PATCHES, source, options=options).items[0].digest
        for source, options in [
            (picture(64, 64), {}),
            (picture(64, 64), {}),
            (picture(64, 64, 1), {}),
            (picture(64, 64), {"backend": "pil"}),
        ]
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("side", [40, 300], ids=["smaller than its tiles", "larger"])
def test_every_tile_has_a_digest_of_its_own_and_equal_pictures_have_equal_ones(side: int):
    def digests(seed: int, **options: Any) -> list[bytes]:
        return [item.digest for item in image(TILES, picture(side, side, seed), options=options).items]

    first = digests(0)
    assert digests(0) == first
    assert len(set(first)) == len(first) > 1
    for others in (digests(1), digests(0, backend="pil"), digests(0, size={"longest_edge": 192})):
        assert not set(first) & set(others)


def test_positions_of_a_picture_share_their_time_and_the_text_goes_on_behind_it():
    places = np.arange(2, 8)
    assert mrope(range(10), places, [Run(2, 3)]).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert mrope([1, 2, 3], None, []).tolist() == [[0, 1, 2]] * 3


def test_positions_of_a_video_advance_in_time_and_the_text_goes_on_behind_the_latest():
    """Of vLLM 0.32's Qwen2VLForConditionalGeneration. transformers 5 goes on behind the longer side."""
    places = np.arange(1, 9)
    assert mrope(range(10), places, [Run(1, 2, (0, 1, 2, 5))]).tolist() == [
        [0, 1, 1, 2, 2, 3, 3, 6, 6, 7],
        [0, 1, 1, 1, 1, 1, 1, 1, 1, 7],
        [0, 1, 2, 1, 2, 1, 2, 1, 2, 7],
    ]


def size(options: dict[str, Any]) -> tuple[int, int]:
    return image(PATCHES, picture(600, 900), options=options).grids[0]


def test_a_budget_of_pixels_can_be_said_in_five_ways():
    assert size({}) == (19, 28)
    for options in (
        {"max_pixels": 102400},
        {"size": {"longest_edge": 102400}},
        {"size": {"longest_edge": 102400, "shortest_edge": 4096}},
        {"max_num_visual_tokens": 100},
        {"images_kwargs": {"max_pixels": 102400}, "max_pixels": 4096},
    ):
        assert size(options) == (8, 12), options
    assert size({"min_pixels": 1000000, "max_pixels": 2000000}) == (26, 39)


def test_a_picture_that_is_not_resized_must_fit():
    assert image(PATCHES, picture(64, 96), options={"do_resize": False}).grids == ((2, 3),)
    with pytest.raises(InputError, match="multiples of 32"):
        image(PATCHES, picture(64, 100), options={"do_resize": False})


@pytest.mark.parametrize(
    "options",
    [
        {"colour": True},
        {"size": 5},
        {"min_pixels": -1},
        {"backend": "x"},
        {"backend": ["pil"]},
        {"fps": 2},
        {"min_pixels": 4096, "max_pixels": 1024},
        {"images_kwargs": 1},
        {"do_resize": 1},
        {"size": {"height": 5}},
    ],
)
def test_an_option_that_is_not_known_is_refused(options):
    with pytest.raises(InputError, match="mm_processor_kwargs"):
        image(PATCHES, picture(64, 64), options=options)


REGION = 0.02  # a level of 255 and half a pixel of the smallest picture
CROPPED = Images(
    scheme="fixed", resample="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), height=64, width=64,
    shortest_edge=64, tokens=4, token="<image>", placeholder="<image>",
)  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(100, 260), (300, 90), (130, 130)])
@pytest.mark.parametrize("scheme", ["patches", "tiles", "cropped", "squashed", "apart"])
def test_each_row_shows_its_region_of_the_picture(scheme: str, height: int, width: int) -> None:
    images = {
        "patches": PATCHES,
        "tiles": TILES,
        "cropped": CROPPED,
        "squashed": replace(CROPPED, shortest_edge=None),
        "apart": replace(CROPPED, apart=True, token="", placeholder=""),
    }[scheme]
    images = replace(images, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    ramp = np.zeros((height, width, 3))  # red grows to the right, green downwards
    ramp[..., 0] = (np.arange(width) + 0.5) / width
    ramp[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
    medium = image(images, np.round(ramp * 255).astype(np.uint8))
    assert len(medium.regions) == len(medium.items)
    assert medium.size == (height, width)
    for item, (left, top, right, bottom) in zip(medium.items, medium.regions, strict=True):
        values = item.arrays["pixel_values"]
        red, green = (
            values.reshape(len(values), 3, -1)[:, :2].mean(axis=(0, 2))
            if scheme == "patches"
            else values[:2].mean(axis=(1, 2))
        )
        assert red == pytest.approx((left + right) / 2, abs=REGION)
        assert green == pytest.approx((top + bottom) / 2, abs=REGION)


def test_the_region_of_a_picture_that_is_too_small_reaches_beyond_it() -> None:
    medium = image(CROPPED, picture(32, 64), options={"do_resize": False})
    ((left, top, right, bottom),) = medium.regions
    assert (left, right) == (0.0, 1.0)
    assert (top, bottom) == (-0.5, 1.5), "black above and below it"
