"""Pictures and videos, prepared bit for bit as transformers' processors and vLLM's loader do it:
tests/goldens/record_pictures.py recorded them."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from poolrt.runtime.artifact.images import Images, Patches, Videos
from poolrt.runtime.artifact.records import from_plain
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media import decode, native, prepared, video
from poolrt.runtime.inputs.media.limits import PictureLimits
from poolrt.runtime.inputs.media.options import applied
from poolrt.runtime.inputs.media.video_file import VideoFile

from tests.goldens.record_pictures import FRAMES, VIDEO_OPTIONS, VIDEO_SIZE
from tests.pictures import FOLDER, PROCESSORS, clip_of_frames, digest, drawn

RECORDED = json.loads((FOLDER / "recorded.json").read_text())
VIDEO = Images(
    scheme="patches",
    resample="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    patches=Patches(size=16, merge=2, temporal=2, min_pixels=4096, max_pixels=1310720),
    videos=Videos(
        placeholder="<|vision_start|><|video_pad|><|vision_end|>",
        token="<|video_pad|>",
        frame_text="<{seconds} seconds><|vision_start|>{tokens}<|vision_end|>",
        fps=2.0,
        min_frames=4,
        max_frames=768,
        min_pixels=VIDEO_SIZE["shortest_edge"],
        max_pixels=VIDEO_SIZE["longest_edge"],
    ),
)


def pixel_values(images: Images, source: object, options: dict[str, Any] | None = None) -> np.ndarray:
    """As transformers' processors lay them out: the rows of all tiles, or of the only one."""
    rows = [item.arrays["pixel_values"] for item in prepared.image(images, source, options=options).items]
    return np.stack(rows) if images.scheme == "tiles" else rows[0]


@pytest.mark.parametrize("label", PROCESSORS)
def test_pixels_are_those_of_transformers_processors(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiled resize is held to the numpy form in test_media_resize.py.
    monkeypatch.setattr(native, "_library", lambda: None)
    native._agrees.cache_clear()
    processor, wrong = PROCESSORS[label], []
    for kernel in processor.kernels:
        images = replace(from_plain(Images, processor.facts), kernel=kernel)
        for number, (width, height) in enumerate(processor.sizes):
            recorded = RECORDED["pixels"][f"{label}, {kernel}, {width}x{height}"]
            try:
                values = digest(pixel_values(images, drawn(width, height, number), processor.options))
            except InputError:
                values = "None"
            if values != recorded:
                wrong.append((kernel, width, height, values, recorded))
    assert not wrong


def test_the_kernel_may_be_chosen_for_one_picture() -> None:
    arrays = np.load(FOLDER / "arrays.npz")
    images = from_plain(Images, PROCESSORS["clip padded"].facts)
    for number, (width, height) in enumerate([(40, 70), (200, 100)]):
        for option in ({"backend": "pil"}, {"use_fast": False}):
            np.testing.assert_array_equal(
                pixel_values(images, drawn(width, height, number), option),
                arrays[f"pillow, {width}x{height}"],
            )
        for option in ({}, {"backend": "torchvision"}, {"use_fast": True}):
            np.testing.assert_array_equal(
                pixel_values(images, drawn(width, height, number), option),
                arrays[f"torchvision, {width}x{height}"],
            )


@pytest.mark.parametrize("name", RECORDED["files"])
def test_a_file_is_decoded_as_vllm_decodes_it(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    assert digest(decode.rgb(data)) == RECORDED["files"][name]
    assert digest(decode.rgb(Image.open(io.BytesIO(data)))) == RECORDED["files"][name]


@pytest.mark.parametrize("name", [*RECORDED["files"], "rgb_key.png"])
def test_transparency_is_shown_on_white_as_in_transformers(name: str) -> None:
    from transformers.image_transforms import convert_to_rgb

    image = ImageOps.exif_transpose(Image.open(io.BytesIO((FOLDER / name).read_bytes())))
    np.testing.assert_array_equal(decode.rgb(image), convert_to_rgb(image, return_numpy=True))


@pytest.mark.parametrize("name", ["rgba.png", "grey_alpha.png", "palette_transparent.png", "rgb_key.png"])
def test_transparency_may_be_dropped(name: str) -> None:
    """As the processors of before transformers 5 and the authors of some models do it."""
    data = (FOLDER / name).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice to convert a palette to RGBA first
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode.rgb(data, background="none"), pixels)


@pytest.mark.parametrize("background", ["white", "none"])
def test_an_array_with_transparency_is_treated_as_a_file_is(background: Any) -> None:
    levels = np.arange(256, dtype=np.uint8)
    values = np.stack([*np.meshgrid(levels, levels), np.full((256, 256), 9, np.uint8)], axis=2)
    rgba = values[:, :, [0, 2, 0, 1]]  # each level with each transparency
    image = Image.fromarray(np.ascontiguousarray(rgba))
    np.testing.assert_array_equal(
        decode.rgb(rgba, background=background), decode.rgb(image, background=background)
    )


@pytest.mark.parametrize("options", VIDEO_OPTIONS, ids=str)
@pytest.mark.parametrize("clip", FRAMES, ids=str)
def test_a_video_is_that_of_transformers_processor(
    clip: tuple[int, int, int, float | None], options: dict[str, Any]
) -> None:
    width, height, frames, fps = clip
    recorded = RECORDED["videos"][f"{width}x{height}, {frames} frames, {fps} fps, {json.dumps(options)}"]
    medium = prepared.video(VIDEO, clip_of_frames(width, height, frames), fps=fps, options=options)
    assert medium.text == f"<|vision_start|>{recorded['text']}<|vision_end|>"
    grid = [len(medium.items), *(2 * side for side in medium.grids[0])]
    assert (grid, len(set(medium.grids))) == (recorded["grid"], 1)
    assert (
        digest(np.concatenate([item.arrays["pixel_values"] for item in medium.items])) == recorded["pixels"]
    )


@pytest.mark.parametrize("name", RECORDED["clips"])
def test_a_video_file_is_sampled_and_decoded_as_vllm_does_it(name: str) -> None:
    recorded = RECORDED["clips"][name]
    clip = VideoFile((FOLDER / name).read_bytes(), PictureLimits(), "video_url")
    assert (clip.frames, clip.fps) == (recorded["total_num_frames"], pytest.approx(recorded["fps"]))
    numbers = video.sampled(applied(VIDEO, {}, video=True), clip, field="video_url")
    frames, read = clip.read(numbers)
    assert read.tolist() == recorded["frames_indices"]
    assert digest(np.stack(frames)) == recorded["pixels"]


def test_a_title_in_another_encoding_changes_nothing() -> None:
    data = (FOLDER / "h264.mp4").read_bytes()
    place = data.index(b"Lavf")
    titled = data[:place] + "Über".encode("latin-1") + data[place + 4 :]
    first = np.arange(1)
    (pixels,), _ = VideoFile(data, PictureLimits(), "video_url").read(first)
    (same,), _ = VideoFile(titled, PictureLimits(), "video_url").read(first)
    assert np.array_equal(pixels, same)


CAPPED = (
    (9, 400, 300, 4096, 200000, (160, 128)), (64, 1080, 1920, 4096, 15728640, (352, 640)),
    (7, 1080, 1920, 4096, 15728640, (640, 1152)), (7, 64, 96, 131072, 2000000, (128, 192)),
    (31, 200, 900, 60000, 900000, (96, 512)), (4, 2000, 2000, 4096, 16777216, (864, 864)),
)  # fmt: skip
"""Frames, their height and width, least and most pixels of all -> height and width that transformers 5.24.0's
Qwen3VLVideoProcessor scales them to with cap_pixels_per_frame, at most 768 tokens each."""


@pytest.mark.parametrize(("frames", "height", "width", "least", "most", "expected"), CAPPED)
def test_frames_share_a_budget_as_transformers_caps_them(
    frames: int, height: int, width: int, least: int, most: int, expected: tuple[int, int]
) -> None:
    assert VIDEO.videos is not None
    assert VIDEO.patches is not None
    videos = replace(VIDEO.videos, min_pixels=least, max_pixels=most, frame_pixels=768 * 32 * 32)
    assert video.target(VIDEO.patches, videos, frames, height, width, field="video_url") == expected


def test_frames_may_have_another_resize_and_mean_than_pictures() -> None:
    clip = clip_of_frames(90, 60, 6)
    assert VIDEO.videos is not None
    own = replace(VIDEO.videos, resample="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))
    other = replace(VIDEO, resample="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))
    first, second = (prepared.video(images, clip, fps=2.0) for images in (replace(VIDEO, videos=own), other))
    assert [item.digest for item in first.items] == [item.digest for item in second.items]
    for mine, theirs in zip(first.items, second.items, strict=True):
        np.testing.assert_array_equal(mine.arrays["pixel_values"], theirs.arrays["pixel_values"])
    still = np.zeros((64, 64, 3), np.uint8)
    np.testing.assert_array_equal(pixel_values(replace(VIDEO, videos=own), still), pixel_values(VIDEO, still))
