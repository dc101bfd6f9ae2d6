"""Positions of tokens in time, height and width, for models with multimodal rotary embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mrope(
    ids: Sequence[int], feature_places: NDArray[np.int64] | None, grids: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Returns [3, tokens]. A token of text advances all three by 1. The tokens of a grid share the position
    of its first one in time, and add their row and column in it. The next token stands behind its longer
    side.

    Args:
        ids: of one prompt, not padded.
        feature_places: the tokens that stand for features, ascending.
        grids: (rows, columns) of features for each run of them, in their order.
    """
    places = np.zeros(0, np.int64) if feature_places is None else feature_places
    assert len(places) == sum(rows * columns for rows, columns in grids), (
        "the grids cover the features' tokens"
    )
    positions = np.zeros((3, len(ids)), np.int64)
    place, position, used = 0, 0, 0
    for rows, columns in grids:
        first = int(places[used])
        positions[:, place:first] = np.arange(position, position + first - place)
        position += first - place
        place, used = first + rows * columns, used + rows * columns
        positions[:, first:place] = position
        positions[1, first:place] += np.repeat(np.arange(rows), columns)
        positions[2, first:place] += np.tile(np.arange(columns), rows)
        position += max(rows, columns)
    positions[:, place:] = np.arange(position, position + len(ids) - place)
    return positions
