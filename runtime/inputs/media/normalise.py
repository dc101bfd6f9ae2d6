"""Bytes become the numbers a vision graph reads, in the arithmetic of the kernel's library.

Both compute (byte / 255 - mean) / std, and their results differ in the last bit: transformers' torchvision
processors multiply mean and std by 255 first, its Pillow processors divide the byte first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import RGB, Kernel

SCALE = np.float32(255)
"""transformers multiplies by 0.00392156862745098 in float64; dividing gives the same float32s."""


def normalise(values: NDArray[np.float32], mean: RGB, std: RGB, kernel: Kernel, *, axis: int) -> None:
    """Normalises bytes, as float32 numbers, in place. `axis` is that of the three channels."""
    shape = [3 if place == axis else 1 for place in range(values.ndim)]
    means, stds = (np.array(numbers, np.float32).reshape(shape) for numbers in (mean, std))
    if kernel == "torchvision":
        means, stds = means * SCALE, stds * SCALE
    else:
        values /= SCALE
    values -= means
    values /= stds
