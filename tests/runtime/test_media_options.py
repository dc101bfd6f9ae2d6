"""Options of `mm_processor_kwargs` for pictures that are cut: what each does, beside the processors that they
come from, and what each rule refuses by name."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from poolrt.runtime.artifact.images import Images, Rule, Tiling
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.limits import PictureLimits
from poolrt.runtime.inputs.multimodal.media_reading import MediaReading
from poolrt.runtime.inputs.tilings import changes

from tests.families.llava import pillow_12
from tests.pictures import HALF, digest, drawn

from .test_media_goldens import VIDEO
from .test_tilings import GRIDS, SIDE, facts

SIZES = [(70, 40), (200, 100), (33, 120), (1, 1), (64, 64)]
PIL = {"backend": "pil"}
RESOLUTIONS = ((32, 64), (64, 32), (64, 64), (96, 32))
TILINGS: dict[Rule, Tiling] = {
    "idefics3": Tiling(rule="idefics3", longest_edge=128),
    "grid": Tiling(rule="grid", most_tiles=6),
    "anyres": Tiling(rule="anyres", resolutions=RESOLUTIONS),
    "hd": Tiling(rule="hd", most_tiles=4),
}
TOKENS: dict[Rule, int] = {"idefics3": 4, "grid": 4, "anyres": 5, "hd": 6}


def of(rule: Rule) -> Images:
    return replace(facts(6), tiling=TILINGS[rule], tokens=TOKENS[rule])


def rows(images: Images, picture: Any, options: dict[str, Any]) -> np.ndarray:
    items = prepared.image(images, picture, options=options).items
    return np.stack([item.arrays["pixel_values"] for item in items])


def processor(name: str, **settings: Any) -> Any:
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    [kind] = [getattr(module, found) for found in module.__all__ if found.endswith("ImageProcessorPil")]
    return kind(image_mean=list(HALF), image_std=list(HALF), resample=3, **settings)


OPTIONS: list[tuple[Rule, dict[str, Any]]] = [
    ("idefics3", {}),
    ("idefics3", {"do_resize": False}),
    ("idefics3", {"do_image_splitting": False}),
    ("idefics3", {"do_resize": False, "do_image_splitting": False}),
    ("idefics3", {"size": {"longest_edge": 70}}),
    ("idefics3", {"size": {"height": 45, "width": 110}}),
    ("idefics3", {"size": {"height": 45, "width": 110}, "do_image_splitting": False}),
    ("anyres", {}),
    ("anyres", {"do_resize": False}),
    ("anyres", {"do_resize": True}),
    ("anyres", {"size": {"shortest_edge": SIDE}}),
    ("anyres", {"size": {"height": SIDE, "width": SIDE}, "do_resize": False}),
]


@pytest.mark.parametrize(("rule", "options"), OPTIONS, ids=str)
def test_an_option_does_what_transformers_processor_makes_of_it(rule: Rule, options: dict[str, Any]) -> None:
    side = {"height": SIDE, "width": SIDE}
    theirs = (
        processor("idefics3", size={"longest_edge": 128}, max_image_size={"longest_edge": SIDE})
        if rule == "idefics3"
        else processor(
            "llava_next",
            size={"shortest_edge": SIDE},
            crop_size=side,
            image_grid_pinpoints=[list(pair) for pair in RESOLUTIONS],
        )
    )
    for number, (width, height) in enumerate(SIZES):
        picture = drawn(width, height, number)
        with pillow_12():
            expected = theirs(images=[Image.fromarray(picture)], return_tensors="np", **options)
        values = np.asarray(expected["pixel_values"])[0]
        np.testing.assert_array_equal(rows(of(rule), picture, options | PIL), values)


@pytest.mark.parametrize("options", [{"max_dynamic_patch": 2}, {"dynamic_image_size": False}], ids=str)
def test_a_grids_tiles_are_those_of_vllm_with_its_options(options: dict[str, Any]) -> None:
    most = options.get("max_dynamic_patch", 1)
    for name, (_, _, hashed) in GRIDS.items():
        count, size = name.split()
        if int(count) == most:
            width, height = map(int, size.split("x"))
            tiles = rows(facts(12), drawn(width, height), options)
            assert digest(np.round((tiles * 0.5 + 0.5) * 255).astype(np.uint8)).split()[-1] == hashed


def test_a_grid_may_have_no_overview() -> None:
    assert len(rows(facts(6), drawn(200, 100), {"use_thumbnail": False})) == 6


REFUSED: list[tuple[Rule, dict[str, Any], str]] = [
    ("grid", {"do_resize": False}, "'do_resize' changes nothing here, this model knows max_dynamic_patch, "),
    ("grid", {"size": {"longest_edge": 64}}, "'size' changes nothing here"),
    ("grid", {"do_image_splitting": False}, "'do_image_splitting' changes nothing here"),
    ("grid", {"backend": "torchvision"}, "'backend' changes nothing here"),
    ("grid", {"max_dynamic_patch": 0}, "max_dynamic_patch is 0, expected a whole number above 0, at most"),
    ("grid", {"max_dynamic_patch": 257}, "max_dynamic_patch is 257"),
    ("grid", {"dynamic_image_size": 1}, "dynamic_image_size is 1, expected true or false"),
    ("hd", {"do_resize": True, "size": {}}, "'do_resize', 'size' changes nothing here, .* knows num_crops"),
    ("hd", {"do_image_splitting": False}, "'do_image_splitting' changes nothing here"),
    ("hd", {"use_fast": True}, "'use_fast' changes nothing here"),
    ("hd", {"num_crops": "4"}, "num_crops is '4', expected a whole number"),
    ("anyres", {"do_image_splitting": False}, "'do_image_splitting' .* knows do_resize, use_fast, backend, "),
    ("anyres", {"size": {"shortest_edge": 64}}, "size is 64, this model's tiles have 32 x 32 pixels"),
    ("anyres", {"size": {"height": 32, "width": 64}}, "size is 32 x 64"),
    ("anyres", {"size": {"longest_edge": 32}}, "size has longest_edge, this model takes shortest_edge"),
    ("anyres", {"do_resize": "no"}, "do_resize is 'no', expected true or false"),
    ("idefics3", {"size": {"height": 32}}, "size has height, this model takes height and width"),
    ("idefics3", {"num_crops": 4}, "'num_crops' changes nothing here"),
    ("idefics3", {"videos_kwargs": {"fps": 1}}, "videos_kwargs changes nothing, this model reads no videos"),
]


@pytest.mark.parametrize(("rule", "options", "reason"), REFUSED, ids=str)
def test_an_option_that_changes_nothing_is_refused_by_name(
    rule: Rule, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=f"mm_processor_kwargs: {reason}"):
        rows(of(rule), drawn(70, 40), options)


def test_options_of_videos_leave_pictures_alone_and_are_checked_when_a_model_is_opened() -> None:
    plain = prepared.image(VIDEO, drawn(70, 40))
    scoped = prepared.image(VIDEO, drawn(70, 40), options={"videos_kwargs": {"max_pixels": 4096}})
    assert scoped.grids == plain.grids
    with pytest.raises(InputError, match="'fpz' changes nothing here"):
        MediaReading(VIDEO, options={"videos_kwargs": {"fpz": 1}})


def test_every_rule_says_its_options() -> None:
    assert set(changes.KEYS) == set(TILINGS)


def test_a_size_is_bounded_before_a_picture_is_scaled_to_it() -> None:
    huge = {"size": {"height": 1 << 30, "width": 1 << 30}}
    for options in (huge, huge | {"do_image_splitting": False}):
        with pytest.raises(InputError, match="would have 1152921504606846976 pixels, at most 9000"):
            prepared.image(
                of("idefics3"), drawn(70, 40), options=options, limits=PictureLimits(prepared_pixels=9000)
            )
