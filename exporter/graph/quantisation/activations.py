"""How the inputs of products become 8 bits with scales that are constants, fitted to samples of them.

A channel that is far larger than the others would take all levels for itself. So channels are divided by what
the weights' rows are multiplied by (SmoothQuant, https://arxiv.org/abs/2211.10438), as far as that makes the
products of the samples more exact. Ranges are the least and the largest value of every text that was run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .products import TINY, columns

Floats = NDArray[np.float32]

STRENGTHS = (None, 0.5, 0.7, 0.9)
"""How much of a channel's size goes to the weights, tried for each activation; None: channels stay as they
are."""
ROWS = 256
"""Rows that are kept of an activation."""
_LEVELS = 255


@dataclass(slots=True)
class Samples:
    """What was seen of one activation."""

    low: Floats
    """[width], the least value of each channel."""
    high: Floats
    rows: list[Floats] = field(default_factory=list)
    """[rows, width] each, drawn from all texts."""


@dataclass(frozen=True, slots=True)
class Activation:
    """How one activation is quantised: round(x / smoothing / scale) + zero."""

    scale: np.float32
    zero: int
    smoothing: Floats | None
    """[width]; None: all channels are as they are."""
    corrections: tuple[Floats, ...]
    """[columns] for each product that reads it: what quantising takes from the samples' mean."""
    error: float
    """Mean square of what quantising changes in the products, as a share of theirs."""


def add(samples: Samples | None, rows: Floats, rng: np.random.Generator, count: int) -> Samples:
    """Adds the rows [rows, width] of one run, `count` of which are kept."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    if samples is None:
        samples = Samples(low, high)
    else:
        samples.low, samples.high = np.minimum(samples.low, low), np.maximum(samples.high, high)
    samples.rows.append(rows[rng.choice(len(rows), min(count, len(rows)), replace=False)])
    if sum(map(len, samples.rows)) > 2 * ROWS:
        together = np.concatenate(samples.rows)
        samples.rows = [together[rng.choice(len(together), ROWS, replace=False)]]
    return samples


def fit(samples: Samples, weights: Sequence[Floats]) -> Activation:
    """Returns the most exact of several ways to quantise an activation.

    Args:
        weights: [width, columns] of each product that reads it.
    """
    together, rows = np.concatenate(weights, axis=1), np.concatenate(samples.rows)
    exact = rows @ together
    ends = np.cumsum([matrix.shape[1] for matrix in weights])[:-1]
    best: Activation | None = None
    for strength in STRENGTHS:
        smoothing = None if strength is None else _smoothing(samples, together, strength)
        divisor = np.float32(1) if smoothing is None else smoothing
        scale, zero = _range(samples.low / divisor, samples.high / divisor)
        whole, scales = columns(together if smoothing is None else together * smoothing[:, None])
        integers = np.clip(np.rint(rows / divisor / scale) + zero, 0, _LEVELS) - zero
        change = (integers * scale) @ (whole * scales) - exact
        error = float(np.mean(change**2) / max(float(np.mean(exact**2)), float(TINY)))
        if best is None or error < best.error:
            corrections = tuple(np.split(-change.mean(axis=0), ends))
            best = Activation(scale, zero, smoothing, corrections, error)
    assert best is not None
    return best


def _smoothing(samples: Samples, weights: Floats, strength: float) -> Floats:
    """[width], 1 in the geometric mean."""
    floor = np.float32(1e-5)
    sizes = np.maximum(np.maximum(np.abs(samples.low), np.abs(samples.high)), floor)
    factors = np.log(sizes) * strength - np.log(np.maximum(np.abs(weights).max(axis=1), floor)) * (
        1 - strength
    )
    return np.exp(factors - factors.mean()).astype(np.float32)


def _range(low: Floats, high: Floats) -> tuple[np.float32, int]:
    """Scale and zero point: 0 and all values lie within the levels."""
    least, largest = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    scale = max((largest - least) / _LEVELS, float(TINY))
    return np.float32(scale), int(np.clip(round(-least / scale), 0, _LEVELS))
