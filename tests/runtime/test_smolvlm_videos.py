"""Videos as transformers' processor for SmolVLM prepares them, bit for bit, and the words around their frames
(tests/goldens/record_smolvlm.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from poolrt.exporter.families import _smolvlm
from poolrt.runtime.artifact.images import Images, Tiling, Videos
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.limits import PictureLimits
from poolrt.runtime.inputs.videos import wording

from tests.goldens.record_smolvlm import CLIPS, OPTIONS, PATH, key, short
from tests.pictures import FOLDER, HALF, clip_of_frames, digest, drawn

RECORDED = json.loads(PATH.read_text(encoding="utf-8"))
WHOLE = "<fake_token_around_image><global-img>{tokens}<fake_token_around_image>"
VIDEOS = Videos(
    placeholder="<video>",
    token="<image>",
    frame_text=_smolvlm.FRAME + WHOLE,
    expansion=_smolvlm.EXPANSION,
    fps=1.0,
    min_frames=1,
    max_frames=64,
    sampling="middle",
    longest_edge=100,
)
IMAGES = Images(
    scheme="tiles",
    resample="lanczos",
    mean=HALF,
    std=HALF,
    height=42,
    width=42,
    tokens=9,
    cost=36,
    placeholder="<image>",
    token="<image>",
    tiling=Tiling(rule="idefics3", longest_edge=84, single_text=WHOLE),
    videos=VIDEOS,
)
KEPT = [
    (clip, options)
    for clip in CLIPS
    for options in OPTIONS
    if options.get("do_sample_frames", True) or clip[2] <= 64
]


@pytest.mark.parametrize(("clip", "options"), KEPT, ids=str)
def test_a_video_is_that_of_transformers_processor(
    clip: tuple[int, int, int, float], options: dict[str, Any]
):
    width, height, frames, fps = clip
    recorded = RECORDED["videos"][key(clip, options)]
    medium = prepared.video(IMAGES, clip_of_frames(width, height, frames), fps=fps, options=options)
    assert short(medium.text) == recorded["text"]
    assert digest(np.stack([item.arrays["pixel_values"] for item in medium.items])) == recorded["pixels"]
    assert medium.tokens == medium.text.count("<image>") == 9 * len(medium.items)
    assert medium.grids == ((3, 3),) * len(medium.items)


def test_frames_of_the_size_that_is_published_are_those_of_transformers_processor():
    images = replace(IMAGES, height=512, width=512, videos=replace(VIDEOS, longest_edge=2048))
    for (width, height, frames, fps), recorded in zip(
        CLIPS, RECORDED["files"]["of the size that is published"], strict=False
    ):
        medium = prepared.video(images, clip_of_frames(width, height, frames), fps=fps)
        pixels = np.stack([item.arrays["pixel_values"] for item in medium.items])
        assert digest(pixels) == recorded["pixels"]


@pytest.mark.parametrize("number", RECORDED["words"])
def test_numbers_are_written_as_num2words_writes_them(number: str):
    assert wording.count(int(number)) == RECORDED["words"][number]


def test_a_length_is_written_as_pythons_timedelta_writes_it():
    import datetime

    for seconds in (0, 59, 60, 3599, 3600, 86399, 86400, 172799, 172800, 10**9):
        assert wording.length(seconds) == str(datetime.timedelta(seconds=seconds))


def test_a_video_that_tells_no_rate_is_as_long_as_its_last_frame_is_late():
    """transformers takes 24 frames a second then, and has no length of the video."""
    medium = prepared.video(IMAGES, clip_of_frames(8, 8, 49), options={"do_sample_frames": False})
    assert "forty-nine frames from a 0:00:02 [H:MM:SS] video" in medium.text
    assert "0:00:01" in prepared.video(IMAGES, [drawn(8, 8)]).text  # a list shows one a second


def test_equal_frames_of_videos_and_pictures_have_one_digest():
    frame = drawn(60, 40)
    images = replace(IMAGES, videos=replace(VIDEOS, longest_edge=84))
    still = prepared.image(images, frame, options={"do_image_splitting": False}).items[0]
    first, second = prepared.video(images, np.stack([frame, frame]), fps=0.5).items
    assert first.digest == second.digest == still.digest
    np.testing.assert_array_equal(first.arrays["pixel_values"], still.arrays["pixel_values"])


@pytest.mark.parametrize(
    ("source", "options", "fps", "message"),
    [
        (np.zeros((65, 8, 8, 3), np.uint8), {"do_sample_frames": False}, 1, "65 frames, at most 64"),
        (np.zeros((200, 8, 8, 3), np.uint8), {"num_frames": 100, "fps": 9}, 9, "100 frames, at most 64"),
        (np.zeros((9, 8, 8, 3), np.uint8), {"max_frames": 65}, 1, "at most 64"),
        (np.zeros((9, 8, 8, 3), np.uint8), {"do_resize": False}, 1, "8 x 8 pixels and do_resize is off"),
        (np.zeros((9, 8, 8, 3), np.uint8), {"fps": 0}, 1, "fps is 0"),
        (np.zeros((9, 8, 8, 3), np.uint8), {}, 1e-300, "longer than 1000000000 seconds"),
        ([drawn(8, 8), drawn(8, 9)], {}, None, "frame 2 of a video has 8 x 9 pixels"),
    ],
    ids=["all", "asked", "bound", "size", "rate", "length", "sizes"],
)
def test_what_the_model_does_not_read_is_refused(
    source: Any, options: dict[str, Any], fps: float | None, message: str
):
    with pytest.raises(InputError, match=message):
        prepared.video(IMAGES, source, options=options, fps=fps)


def test_frames_of_the_graphs_size_may_stay_as_they_are():
    medium = prepared.video(IMAGES, clip_of_frames(42, 42, 2), fps=1, options={"do_resize": False})
    expected = (drawn(42, 42, 1).transpose(2, 0, 1).astype(np.float32) - 127.5) / 127.5
    np.testing.assert_array_equal(medium.items[1].arrays["pixel_values"], expected)


def test_a_video_is_measured_before_it_is_decoded():
    data = (FOLDER / "h264.mp4").read_bytes()
    for limits in (
        PictureLimits(video_bytes=100), PictureLimits(video_frames=23), PictureLimits(pixels=1000),
        PictureLimits(video_pixels=5_000), PictureLimits(video_work=64 * 48 * 20),
        PictureLimits(prepared_video_pixels=2 * 42 * 42),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"at most|are read|are decoded|may be"):
            prepared.video(IMAGES, data, limits=limits)
    assert len(prepared.video(IMAGES, data).items) == 3
