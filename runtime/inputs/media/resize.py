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
from . import native

Planes = NDArray[np.uint8]
Window = tuple[int, int]
"""First and last + 1 of the outputs of a pass that are computed."""
PILLOW_BITS = 22
SINGLE = 1 << 24
"""Integers up to it are exact in float32."""
BLOCK, LOW_BLOCK = 32, 16
"""Outputs that one product computes together, of the horizontal pass and of the vertical one. More would
multiply more zeros."""
STRIP = 64
"""Rows that are filtered together; 8 to 256 were measured."""
PANEL = 1024
"""Columns of the result that go through both passes together."""
MOST_WASTE = 4
"""Times the pixels that are wanted, which the compiled form may compute: it knows no windows."""
LEAST_SHRINK: dict[Kernel, int] = {"torchvision": 4, "pillow": 1}
"""Times the pixels of a result that a picture has, from which on the compiled form is faster. The numpy form
needs float64 for Pillow's weights."""
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
    """Returns a picture [3, rows, columns] of another size.

    Args:
        planes: [3, rows, columns]; a view of [rows, columns, 3] costs nothing.
        height, width: of the whole result.
        rows, columns: the part of the result that is computed; None: all of it.
    """
    down, across = rows or (0, height), columns or (0, width)
    if planes.shape[1:] == (height, width):
        return planes[:, slice(*down), slice(*across)]
    part = (down[1] - down[0]) * (across[1] - across[0])
    # The compiled form is faster where pictures shrink; its float32 results cost time where they are large.
    most = planes.shape[1] * planes.shape[2] // LEAST_SHRINK[kernel]
    if height * width <= min(MOST_WASTE * part, most):
        whole = native.resized(planes, height, width, resample, kernel, _whole)
        if whole is not None:
            return whole[:, slice(*down), slice(*across)]
    return by_numpy(planes, height, width, resample, kernel, down, across)


def _whole(planes: Planes, height: int, width: int, resample: Resample, kernel: Kernel) -> Planes:
    return by_numpy(planes, height, width, resample, kernel, (0, height), (0, width))


def by_numpy(
    planes: Planes, height: int, width: int, resample: Resample, kernel: Kernel, rows: Window, columns: Window
) -> Planes:
    """The form that needs no other library, to which the compiled one is held."""
    tall, wide = planes.shape[1:]
    if resample == "nearest":
        lines, places = _nearest(tall, height, kernel, rows), _nearest(wide, width, kernel, columns)
        return planes[:, lines[:, None], places]
    across = down = None
    if (wide, columns) != (width, (0, width)):
        across = _bands(wide, width, resample, kernel, columns, BLOCK)
    if (tall, rows) != (height, (0, height)):
        down = _bands(tall, height, resample, kernel, rows, LOW_BLOCK)
    return _filtered(planes, across, down)


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
    """[blocks, outputs of a block, band] float32 or float64: integer weights * 2**-bits; rows of zeros behind
    the last output."""
    turned: NDArray[Any]
    """[blocks, band, outputs of a block]: the same, for products from the right."""
    offsets: NDArray[Any] | None
    """[blocks, outputs of a block]: what is added to a sum, so that its floor is the output. None: 0.5."""
    outputs: int
    centre: int
    """What is taken from each byte: 128 where smaller numbers keep float32 exact, else 0."""

    def place(self, block: int) -> slice:
        """The outputs of a block."""
        size = self.weights.shape[1]
        return slice(block * size, min((block + 1) * size, self.outputs))


def _bands(
    size: int, out: int, resample: Resample, kernel: Kernel, window: Window, size_of_block: int
) -> Bands:
    """Small ones are kept for the next picture of that size; the large ones would fill memory."""
    build = _kept_bands if size <= 8192 and out <= 4096 else _built_bands
    return build(size, out, resample, kernel, window, size_of_block)


def _built_bands(
    size: int, out: int, resample: Resample, kernel: Kernel, window: Window, size_of_block: int
) -> Bands:
    first, weights = _taps(size, out, resample)
    weights, bits = _integers(weights, kernel)
    first, weights = first[slice(*window)], weights[slice(*window)]
    outputs = len(first)
    blocks = -(-outputs // size_of_block)
    place = np.arange(outputs)
    starts = first[::size_of_block]
    ends = np.maximum.reduceat(first, np.arange(0, outputs, size_of_block)) + weights.shape[1]
    band = min(int((ends - starts).max()), size)
    starts = np.minimum(starts, size - band)
    centre, dtype = _exact(bits, int(np.abs(weights).sum(axis=1).max()))
    matrix = np.zeros((blocks * size_of_block, band), dtype)
    inside = first[:, None] - starts[place // size_of_block][:, None] + np.arange(weights.shape[1])
    # Weights behind the input's end are zero; they are written where the band has room.
    inside = np.minimum(inside, band - 1)
    np.add.at(matrix, (place[:, None], inside), np.ldexp(weights.astype(dtype), -bits))
    matrix = matrix.reshape(blocks, size_of_block, band)
    offsets = None
    if centre:
        offsets = np.zeros(blocks * size_of_block, dtype)
        offsets[:outputs] = np.ldexp(float(centre) * weights.sum(axis=1) + (1 << (bits - 1)), -bits)
        offsets = offsets.reshape(blocks, size_of_block)
    turned = np.ascontiguousarray(matrix.transpose(0, 2, 1))
    return Bands(starts, matrix, turned, offsets, outputs, centre)


def _exact(bits: int, largest: int) -> tuple[int, type[np.floating[Any]]]:
    """The centre and the type in which sums are exact, for weights whose absolute sums reach `largest`."""
    if bits <= 16 and 255 * largest < SINGLE:
        return 0, np.float32
    # A sum of 256 or more, which rounding might change, is cut to 255.
    if bits <= 16 and 128 * largest < SINGLE:
        return 128, np.float32
    return 0, np.float64


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


def _filtered(planes: Planes, across: Bands | None, down: Bands | None) -> Planes:
    """Both passes, or the one that is not None. What lies between the passes stays in the processor's cache:
    a panel of columns goes through both, a strip of rows at a time."""
    height, width = planes.shape[1], planes.shape[2] if across is None else across.outputs
    out = np.empty((len(planes), height if down is None else down.outputs, width), np.uint8)
    if down is None:
        assert across is not None, "one pass is asked for"
        blocks = slice(0, len(across.starts))
        for top in range(0, height, STRIP):
            _horizontal(planes[:, top : top + STRIP], across, blocks, out[:, top : top + STRIP])
        return out
    if across is None:
        for left in range(0, width, PANEL):
            part = slice(left, left + PANEL)
            _vertical(planes[:, :, part], None, slice(0), down, out[:, :, part])
        return out
    wide = across.weights.shape[1]
    step = max(PANEL // wide, 1)
    for first in range(0, len(across.starts), step):
        blocks = slice(first, first + step)
        _vertical(planes, across, blocks, down, out[:, :, first * wide : (first + step) * wide])
    return out


def _vertical(planes: Planes, across: Bands | None, blocks: slice, down: Bands, out: Planes) -> None:
    """A panel of the result: the outputs of some blocks of the horizontal pass, filtered vertically."""
    channels, height = planes.shape[:2]
    size, band = down.weights.shape[1:]
    # The rows from `top` to `end` of what the pass reads; neighbouring blocks share some of them.
    held = np.empty((channels, band + STRIP, out.shape[2]), down.weights.dtype)
    sums = np.empty((channels, size, out.shape[2]), down.weights.dtype)
    top = end = 0
    for block, start in enumerate(down.starts.tolist()):
        if start + band > end:
            begin, end = end, max(start + band, min(max(start, end) + STRIP, height))
            if begin <= start:
                top = begin = start
            elif end - top > held.shape[1]:
                held[:, : begin - start] = held[:, start - top : begin - top]
                top = start
            fresh = held[:, begin - top : end - top]
            if across is None:
                fresh[...] = planes[:, begin:end]
                if down.centre:
                    fresh -= down.centre
            else:
                _horizontal(planes[:, begin:end], across, blocks, fresh, down.centre)
        np.matmul(down.weights[block], held[:, start - top : start - top + band], out=sums)
        sums += 0.5 if down.offsets is None else down.offsets[block][:, None]
        np.clip(sums, 0, 255, out=sums)
        place = down.place(block)
        out[:, place] = sums[:, : place.stop - place.start]


def _horizontal(planes: Planes, bands: Bands, blocks: slice, out: NDArray[Any], centre: int = 0) -> None:
    """[3, rows, columns] -> [3, rows, outputs of some blocks]: bytes, less the centre of the pass that
    follows."""
    starts = bands.starts[blocks].tolist()
    channels, height, _ = planes.shape
    wide, band = bands.weights.shape[1:]
    left, right = min(starts), max(starts) + band
    flat = planes[:, :, left:right].astype(bands.weights.dtype, order="C").reshape(channels * height, -1)
    if bands.centre:
        flat -= bands.centre
    sums = np.empty((channels * height, len(starts), wide), flat.dtype)
    for place, start in enumerate(starts):
        columns = flat[:, start - left : start - left + band]
        np.matmul(columns, bands.turned[blocks.start + place], out=sums[:, place])
    sums += (0.5 if bands.offsets is None else bands.offsets[blocks]) - centre
    np.floor(sums, out=sums)
    np.clip(sums, -centre, 255 - centre, out=sums)
    out[...] = sums.reshape(channels, height, -1)[:, :, : out.shape[2]]
