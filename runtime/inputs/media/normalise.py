"""Bytes become the numbers a vision graph reads, in the arithmetic of the kernel's library.

Both compute (byte / 255 - mean) / std, and their results differ in the last bit: transformers' torchvision
processors multiply mean and std by 255 first, its Pillow processors divide the byte first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import RGB, Kernel

SCALE = 0.00392156862745098
"""1 / 255 as processors write it (`rescale_factor`)."""


def normalised(planes: NDArray[np.uint8], mean: RGB, std: RGB, kernel: Kernel) -> NDArray[np.float32]:
    """Returns [3, ...] float32 of bytes [3, ...]."""
    shape = (3, *[1] * (planes.ndim - 1))
    means, stds = (np.array(values, np.float32).reshape(shape) for values in (mean, std))
    if kernel == "torchvision":
        values = planes.astype(np.float32)
        means, stds = means * np.float32(1 / SCALE), stds * np.float32(1 / SCALE)
    else:
        values = (np.arange(256) * SCALE).astype(np.float32)[planes]
    values -= means
    values /= stds
    return values
