"""Videos as transformers' processor for Qwen2-VL and Qwen2.5-VL prepares them, bit for bit, and their steps
in time: tests/goldens/record_qwen2_vl.py recorded them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact.images import Images, Patches, Videos
from poolrt.runtime.inputs.media import prepared, video

from tests.goldens.record_qwen2_vl import FOLDER, FRAMES, OPTIONS, SIZE
from tests.pictures import clip_of_frames, digest

RECORDED = json.loads((FOLDER / "videos.json").read_text(encoding="utf-8"))
TICKS = 2.0
IMAGES = Images(
    scheme="patches",
    resample="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    patches=Patches(size=14, merge=2, temporal=2, min_pixels=3136, max_pixels=602112),
    videos=Videos(
        placeholder="<|vision_start|><|video_pad|><|vision_end|>",
        token="<|video_pad|>",
        frame_text="{tokens}",
        fps=2.0,
        min_frames=4,
        max_frames=768,
        sampling="steps",
        min_pixels=SIZE["shortest_edge"],
        max_pixels=SIZE["longest_edge"],
        per_frame=True,
        ticks=TICKS,
    ),
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("clip", FRAMES, ids=str)
def test_a_video_is_that_of_transformers_processor(
    clip: tuple[int, int, int, float], options: dict[str, Any]
):
    width, height, frames, fps = clip
    recorded = RECORDED[f"{width}x{height}, {frames} frames, {fps} fps, {json.dumps(options)}"]
    medium = prepared.video(IMAGES, clip_of_frames(width, height, frames), fps=fps, options=options)
    grid = [len(medium.items), *(2 * side for side in medium.grids[0])]
    assert (grid, len(set(medium.grids))) == (recorded["grid"], 1)
    assert (
        digest(np.concatenate([item.arrays["pixel_values"] for item in medium.items])) == recorded["pixels"]
    )
    # One run of tokens, whose text tells no times.
    assert medium.text == f"<|vision_start|>{'<|video_pad|>' * medium.tokens}<|vision_end|>"
    steps = np.arange(len(medium.items), dtype=np.float32) * np.float32(recorded["seconds"] * TICKS)
    assert medium.times == tuple(steps.astype(int).tolist())
    [run] = medium.runs
    assert (run.rows, run.columns, run.times) == (*medium.grids[0], medium.times)


def test_qwen2_vl_counts_groups_of_frames_in_place_of_seconds():
    assert IMAGES.videos is not None
    images = replace(IMAGES, videos=replace(IMAGES.videos, ticks=0.0))
    assert prepared.video(images, clip_of_frames(64, 64, 9), fps=9.0).times == (0, 1)


@pytest.mark.parametrize(
    ("frames", "expected"), [(4, (588, 896)), (64, (280, 448)), (4000, (84, 140))], ids=str
)
def test_frames_share_a_total_as_transformers_caps_them(frames: int, expected: tuple[int, int]):
    """Height and width that transformers 5.24.0's Qwen2VLVideoProcessor scales frames of 600 x 900 pixels to,
    with cap_pixels_per_frame and max_video_tokens 6400."""
    assert IMAGES.videos is not None
    assert IMAGES.patches is not None
    videos = replace(IMAGES.videos, min_pixels=12544, total_pixels=int(6400 * 28 * 28 * 0.9))
    assert video.target(IMAGES.patches, videos, frames, 600, 900, field="video_url") == expected
