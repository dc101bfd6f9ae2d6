"""Resizes RGB bytes bit for bit as torchvision's uint8 kernel on a processor does, or as Pillow up to 12.

Both filter in integers, horizontally first, and round to a byte between the passes; they differ in how many
bits a weight has. torchvision gives the weights of a pass the most bits with which its largest one is below
2**15; Pillow gives 22. Here a pass is a product with a banded matrix, exact in float32 or float64: every
partial sum is an integer that the type represents, whatever the order of the additions.
Pillow 13 turns the order of its passes for some sizes, so its own `resize` would depend on its version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Kernel, Resample

Planes = NDArray[np.uint8]
Window = tuple[int, int]
"""First and last + 1 of the outputs of a pass that are computed."""
PILLOW_BITS = 22
SINGLE = 1 << 24
"""Integers up to it are exact in float32."""
BLOCK = 32
"""Outputs that one product of a pass computes together."""
STRIP = 256
"""Rows that are filtered together; measured fastest of 64 to 1024."""
SUPPORT: dict[Resample, float] = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""Half the width of a filter, in pixels of the smaller of the two pictures."""


def resized(
    planes: Planes,
    height: int,
    width: int,
    *,
    resample: Resample,
    kernel: Kernel,
    rows: Window | None = None,
    columns: Window | None = None,
) -> Planes:
    """Returns a picture [channels, rows, columns] of another size.

    Args:
        planes: [channels, rows, columns].
        height, width: of the whole result.
        rows, columns: the part of the result that is computed; None: all of it.
    """
    rows, columns = rows or (0, height), columns or (0, width)
    if resample == "nearest":
        return planes[
            :,
            _nearest(planes.shape[1], height, kernel, rows)[:, None],
            _nearest(planes.shape[2], width, kernel, columns),
        ]
    if planes.shape[2] != width or columns != (0, width):
        planes = _horizontal(planes, _bands(planes.shape[2], width, resample, kernel, columns))
    if planes.shape[1] != height or rows != (0, height):
        planes = _vertical(planes, _bands(planes.shape[1], height, resample, kernel, rows))
    return planes


def _nearest(size: int, out: int, kernel: Kernel, window: Window) -> NDArray[np.int64]:
    """The source of each output, the one at its middle; torchvision (nearest-exact) computes in float32."""
    number = np.float32 if kernel == "torchvision" else np.float64
    middles = np.arange(*window).astype(number) + number(0.5)
    return np.minimum((middles * number(size / out)).astype(np.int64), size - 1)


@dataclass(frozen=True, slots=True)
class Bands:
    """A pass: blocks of outputs, each from a band of the input."""

    starts: NDArray[np.int64]
    """[blocks]: where the band of a block begins."""
    weights: NDArray[Any]
    """[blocks, BLOCK, band] float32 or float64: integer weights * 2**-bits; rows of zeros
    behind the last output."""
    offsets: NDArray[Any]
    """[blocks, BLOCK]: what is added to a sum over bytes - 128, so that its floor is the output."""
    outputs: int


def _bands(size: int, out: int, resample: Resample, kernel: Kernel, window: Window) -> Bands:
    """Small ones are kept for the next picture of that size; the large ones would fill memory."""
    build = _kept_bands if size <= 8192 and out <= 4096 else _built_bands
    return build(size, out, resample, kernel, window)


def _built_bands(size: int, out: int, resample: Resample, kernel: Kernel, window: Window) -> Bands:
    first, weights = _taps(size, out, resample)
    weights, bits = _integers(weights, kernel)
    first, weights = first[slice(*window)], weights[slice(*window)]
    outputs = len(first)
    blocks = -(-outputs // BLOCK)
    place = np.arange(outputs)
    starts = first[::BLOCK]
    ends = np.maximum.reduceat(first, np.arange(0, outputs, BLOCK)) + weights.shape[1]
    band = min(int((ends - starts).max()), size)
    starts = np.minimum(starts, size - band)
    single = bits <= 16 and 128 * int(np.abs(weights).sum(axis=1).max()) < SINGLE
    dtype = np.float32 if single else np.float64
    matrix = np.zeros((blocks * BLOCK, band), dtype)
    inside = first[:, None] - starts[place // BLOCK][:, None] + np.arange(weights.shape[1])
    # Weights behind the input's end are zero; they are written where the band has room.
    inside = np.minimum(inside, band - 1)
    np.add.at(matrix, (place[:, None], inside), np.ldexp(weights.astype(dtype), -bits))
    offsets = np.zeros(blocks * BLOCK, np.float64)
    offsets[:outputs] = np.ldexp(128.0 * weights.sum(axis=1) + (1 << (bits - 1)), -bits)
    return Bands(
        starts, matrix.reshape(blocks, BLOCK, band), offsets.reshape(blocks, BLOCK).astype(dtype), outputs
    )


_kept_bands = lru_cache(maxsize=16)(_built_bands)


def _taps(size: int, out: int, resample: Resample) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the first source of each output [out], and the weights of the sources from there on
    [out, taps]."""
    scale = size / out
    stretch = max(scale, 1.0)
    support = SUPPORT[resample] * stretch
    center = (np.arange(out) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), size)
    offsets = np.arange(int((end - first).max()))
    weights = _filter((first[:, None] + offsets - center[:, None] + 0.5) * (1 / stretch), resample)
    weights[offsets >= (end - first)[:, None]] = 0
    # Added up from the left, as both libraries do: a last bit can decide how a weight is rounded.
    total = np.add.accumulate(weights, axis=1)[:, -1:]
    return first, weights / np.where(total == 0, 1, total)


def _filter(x: NDArray[np.float64], resample: Resample) -> NDArray[np.float64]:
    if resample == "box":
        return ((x > -0.5) & (x <= 0.5)).astype(np.float64)
    if resample == "lanczos":
        return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    x = np.abs(x)
    if resample == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    if resample == "hamming":
        return np.where(x < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(math.pi * x)), 0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _integers(weights: NDArray[np.float64], kernel: Kernel) -> tuple[NDArray[np.int64], int]:
    """Returns weights * 2**bits, rounded half away from zero, and bits."""
    bits = PILLOW_BITS
    if kernel == "torchvision":
        largest, bits = float(weights.max()), 0
        while bits < PILLOW_BITS and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
            bits += 1
    scaled = weights * (1 << bits)
    return np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64), bits


def _horizontal(planes: Planes, bands: Bands) -> Planes:
    """[channels, rows, columns] -> [channels, rows, outputs]."""
    channels, height, width = planes.shape
    flat = planes.reshape(channels * height, width)
    out = np.empty((channels * height, bands.outputs), np.uint8)
    turned = [np.ascontiguousarray(weights.T) for weights in bands.weights]
    for top in range(0, len(flat), STRIP):
        centred = _centred(flat[top : top + STRIP], bands)
        for block, start in enumerate(bands.starts):
            place = slice(block * BLOCK, min((block + 1) * BLOCK, bands.outputs))
            sums = centred[:, start : start + len(turned[block])] @ turned[block]
            sums += bands.offsets[block]
            out[top : top + STRIP, place] = _bytes(sums)[:, : place.stop - place.start]
    return out.reshape(channels, height, bands.outputs)


def _vertical(planes: Planes, bands: Bands) -> Planes:
    """[channels, rows, columns] -> [channels, outputs, columns]."""
    channels, _, width = planes.shape
    out = np.empty((channels, bands.outputs, width), np.uint8)
    band = bands.weights.shape[2]
    for plane in range(channels):
        centred = _centred(planes[plane], bands)
        for block, start in enumerate(bands.starts):
            place = slice(block * BLOCK, min((block + 1) * BLOCK, bands.outputs))
            sums = bands.weights[block] @ centred[start : start + band]
            sums += bands.offsets[block][:, None]
            out[plane, place] = _bytes(sums)[: place.stop - place.start]
    return out


def _centred(planes: Planes, bands: Bands) -> NDArray[Any]:
    """Bytes - 128 in the type of the weights."""
    return np.bitwise_xor(planes, 128).view(np.int8).astype(bands.weights.dtype)


def _bytes(sums: NDArray[Any]) -> Planes:
    """Rounded down and cut to 0..255; overwrites `sums`."""
    np.clip(sums, 0, 255, out=sums)
    return sums.astype(np.uint8)
