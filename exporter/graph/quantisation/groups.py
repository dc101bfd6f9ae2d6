"""Weights as integers of 8 or 4 bits, a scale for each group of a column: the numbers, without a graph.

8 bits are symmetric and rounded to the nearest. 4 bits have a zero point for each group, and the range of a
group is cut to what gives the least error. An error counts as much as the input that it is multiplied with
(docs/decisions/weight-only.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .products import TINY

Bits = Literal[8, 4]

SIZES: dict[Bits, tuple[int, ...]] = {8: (128, 64, 32, 16), 4: (64, 32, 16)}
"""Inputs of a group: the first of these that divides the inputs of a product is taken."""
_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.72)
"""Shares of a group's range that are tried in 4 bits."""
_COLUMNS = 256
"""Columns that are searched at a time, so that what is computed stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A matrix [inputs, columns] as onnxruntime's MatMulNBits stores it."""

    bits: Bits
    size: int
    values: NDArray[np.uint8]
    """[columns, groups, bytes of a group]; of 4 bits the first of two is the lower."""
    scales: NDArray[np.float32]
    """[columns, groups]"""
    zeros: NDArray[np.uint8] | None
    """[columns, bytes], packed as the values are; None: the middle of the range."""
    error: float
    """Root of the mean square error over that of the product, where inputs are independent."""


def size_of(inputs: int, bits: Bits) -> int | None:
    """Returns the inputs of a group; None where no size divides `inputs`."""
    return next((size for size in SIZES[bits] if inputs % size == 0), None)


def quantised(
    weights: NDArray[np.float32], bits: Bits, size: int, importance: NDArray[np.float32] | None = None
) -> Groups:
    """Quantises a matrix.

    Args:
        weights: [inputs, columns]
        size: inputs of a group; it divides `inputs`.
        importance: [inputs], the mean square of each input; None: all alike.
    """
    inputs, columns = weights.shape
    shares = np.ones(inputs, np.float32) if importance is None else importance.astype(np.float32) + TINY
    shares = (shares / shares.mean()).reshape(-1, size)
    values = np.empty((columns, inputs // size, size), np.uint8)
    scales = np.empty(values.shape[:2], np.float32)
    zeros = np.empty(values.shape[:2], np.uint8)
    error = power = 0.0
    for first in range(0, columns, _COLUMNS):
        part = slice(first, first + _COLUMNS)
        rows = np.ascontiguousarray(weights[:, part].T).reshape(-1, inputs // size, size)
        values[part], scales[part], zeros[part] = (_symmetric if bits == 8 else _searched)(rows, shares)
        off = _restored(values[part], scales[part], zeros[part]) - rows
        error += float((off * off * shares).sum(dtype=np.float64))
        power += float((rows * rows * shares).sum(dtype=np.float64))
    packed = values if bits == 8 else _packed(values)
    ends = None if bits == 8 else _packed(zeros)
    return Groups(bits, size, packed, scales, ends, float(np.sqrt(error / max(power, 1e-30))))


def restored(groups: Groups) -> NDArray[np.float32]:
    """Returns the matrix [inputs, columns] that a product with the groups computes with."""
    values = groups.values if groups.bits == 8 else _unpacked(groups.values)
    zeros = np.full(groups.scales.shape, 128, np.uint8)
    if groups.zeros is not None:
        zeros = _unpacked(groups.zeros)[:, : groups.scales.shape[1]]
    return _restored(values, groups.scales, zeros).reshape(len(values), -1).T


_Quantised = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]


def _symmetric(rows: NDArray[np.float32], shares: NDArray[np.float32]) -> _Quantised:
    """[columns, groups, size] in 8 bits around 128."""
    scales = np.maximum(np.abs(rows).max(axis=-1), TINY) / np.float32(127)
    values = (np.rint(rows / scales[..., None]) + 128).astype(np.uint8)
    return values, scales, np.full(scales.shape, 128, np.uint8)


def _searched(rows: NDArray[np.float32], shares: NDArray[np.float32]) -> _Quantised:
    """[columns, groups, size] in 4 bits, with the range of each group that has the least error."""
    lowest, highest = np.minimum(rows.min(axis=-1), 0), np.maximum(rows.max(axis=-1), 0)
    best: _Quantised | None = None
    least = np.full(lowest.shape, np.inf, np.float32)
    for ratio in _RATIOS:
        low, high = lowest * np.float32(ratio), highest * np.float32(ratio)
        scales = np.maximum(high - low, TINY) / np.float32(15)
        zeros = np.rint(-low / scales)
        values = np.clip(np.rint(rows / scales[..., None]) + zeros[..., None], 0, 15)
        off = (values - zeros[..., None]) * scales[..., None] - rows
        error = (off * off * shares).sum(axis=-1)
        candidate = values.astype(np.uint8), scales, zeros.astype(np.uint8)
        if best is None:
            best, least = candidate, error
            continue
        better = error < least
        least = np.where(better, error, least)
        for kept, new in zip(best, candidate, strict=True):
            kept[better] = new[better]
    assert best is not None
    return best


def _restored(
    values: NDArray[np.uint8], scales: NDArray[np.float32], zeros: NDArray[np.uint8]
) -> NDArray[np.float32]:
    return (values.astype(np.float32) - zeros[..., None]) * scales[..., None]


def _packed(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values of the last axis in a byte; an odd one is alone in its byte."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(values[..., 0::2], values[..., 1::2] << np.uint8(4), dtype=np.uint8)


def _unpacked(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    halves = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1).astype(np.uint8)
