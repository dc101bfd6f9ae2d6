"""Rows of the vision graph, each with the digest under which its features are kept."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Images, Kernel
from ..items import VisionItem
from .normalise import normalise

Planes = NDArray[np.uint8]


STRIP = 64
"""Rows of pixels that become numbers together, and stay in the processor's cache meanwhile."""


def fixed_row(
    images: Images,
    planes: Planes | NDArray[np.float32],
    values: NDArray[np.float32] | None = None,
    key: bytes | None = None,
) -> VisionItem:
    """The row of a picture or tile [3, height, width] that has the size of the graph: bytes, or numbers that
    are normalised already.

    Args:
        values: overwritten with its numbers; None: a new array.
        key: its digest; None: computed.
    """
    if values is None:
        values = np.empty(planes.shape, np.float32)
    for top in range(0, planes.shape[1], STRIP):
        part = values[:, top : top + STRIP]
        part[...] = planes[:, top : top + STRIP]
        if planes.dtype == np.uint8:
            normalise(part, images.mean, images.std, images.kernel, axis=0)
    return VisionItem(
        arrays={"pixel_values": values},
        rows=1 if images.apart else images.tokens,
        cost=max(images.cost, 1),
        digest=digest(images, planes, images.kernel) if key is None else key,
    )


def digest(images: Images, pixels: Planes | NDArray[np.float32], kernel: Kernel) -> bytes:
    """Of the resized bytes and of what else decides the numbers that the graph reads."""
    facts = repr(
        (images.scheme, kernel, images.mean, images.std, images.patches, pixels.shape, pixels.dtype.str)
    )
    hashed = hashlib.sha256(facts.encode())
    hashed.update(np.ascontiguousarray(pixels).data)
    return hashed.digest()


def square(tokens: int) -> tuple[int, int]:
    """(rows, columns) of the features of a row of fixed size."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)
