"""Which frames of a video are read: one function for each value of `Videos.sampling`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
UNKNOWN_FPS = 24.0
"""Frames per second of a video that does not say it (transformers)."""
SKIPPED = 1
"""Seconds at each end of a long video (SmolVLM)."""


def ends(total: int, count: int) -> Numbers:
    """`count` of `total` frames, evenly, the first and the last among them."""
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def steps(total: int, count: int) -> Numbers:
    """The first frame of each of `count` equal parts (Qwen2-VL)."""
    # As transformers' torch.arange: in float32, and with a number too many where a division rounds so.
    step = total / max(count, 1)
    numbers = (np.arange(math.ceil(total / step)) * step).astype(np.float32)
    return np.minimum(numbers.astype(np.int64), total - 1)


def middle(total: int, rate: float, *, fps: float, most: int) -> Numbers:
    """`fps` frames of each second, at most `most`, evenly. Of a video that has far more than that, the first
    and the last second are left out (SmolVLM).

    Args:
        rate: frames per second of the video.
    """
    duration = total / rate
    count = max(min(round(fps * duration), most), 1)
    first, last = 0, total - 1
    if duration - 2 * SKIPPED > most * fps:
        first, last = int(SKIPPED * rate), min(int(total - SKIPPED * rate), last)
        if first >= last:
            first, last = 0, total - 1
    return np.unique(np.linspace(first, last, count).astype(np.int64))
