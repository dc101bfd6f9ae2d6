"""Positions of tokens in time, height and width, for models with multimodal rotary embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..media.medium import Run


def mrope(
    ids: Sequence[int], feature_places: NDArray[np.int64] | None, runs: Sequence[Run]
) -> NDArray[np.int64]:
    """Returns [3, tokens]. A token of text advances all three by 1. The tokens of a run add to the position
    of its first one the steps in time of their grid, and their row and column in it. The next token stands
    behind the largest of all three (Qwen2-VL's authors, vLLM).

    Args:
        ids: of one prompt, not padded.
        feature_places: the tokens that stand for features, ascending.
        runs: those of the features, in their order.
    """
    places = np.zeros(0, np.int64) if feature_places is None else feature_places
    sizes = [len(run.times) * run.rows * run.columns for run in runs]
    assert len(places) == sum(sizes), "the runs cover the features' tokens"
    positions = np.zeros((3, len(ids)), np.int64)
    place, position, used = 0, 0, 0
    for (rows, columns, times), size in zip(runs, sizes, strict=True):
        first = int(places[used])
        positions[:, place:first] = np.arange(position, position + first - place)
        position += first - place
        place, used = first + size, used + size
        positions[:, first:place] = position
        positions[0, first:place] += np.repeat(times, rows * columns)
        positions[1, first:place] += np.tile(np.repeat(np.arange(rows), columns), len(times))
        positions[2, first:place] += np.tile(np.arange(columns), rows * len(times))
        position += max(times[-1] + 1, rows, columns)
    positions[:, place:] = np.arange(position, position + len(ids) - place)
    return positions
