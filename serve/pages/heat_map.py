"""Which patch of a page answers each token of a query: the numbers behind the playground's heat map.

Late interaction gives every token of both sides a vector. A picture's tokens stand for features, and a
feature for a cell of a grid over a part of the page. So the similarities of one query token, put into the
grids, are a picture of where its answer lies. The largest of them over the whole document is its share of the
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.inputs.media.medium import Medium

DIGITS = 4
"""Of a cell's value: more than a colour can show."""
Floats = NDArray[np.float32]


def areas(medium: Medium) -> list[NDArray[np.int64]]:
    """[rows, columns] of each grid: the features of a picture, counted through all of them."""
    ends = np.cumsum([rows * columns for rows, columns in medium.grids]).tolist()
    starts = [0, *ends[:-1]]
    return [
        np.arange(start, end, dtype=np.int64).reshape(grid)
        for start, end, grid in zip(starts, ends, medium.grids, strict=True)
    ]


def maps(similarities: Floats, places: NDArray[np.int64], medium: Medium) -> list[Floats]:
    """Returns [query tokens, rows, columns] for each grid of the picture.

    Args:
        similarities: [query tokens, document tokens].
        places: [features]: the document token that stands for each feature of the picture.
    """
    return [similarities[:, places[area]] for area in areas(medium)]


def shares(similarities: Floats, places: NDArray[np.int64], medium: Medium) -> list[dict[str, Any]]:
    """Returns the best document token of each query token: its `value`, which is the token's share of the
    score, and its `area`, `row` and `column`, or None for all three and `token`, its number, where it is no
    part of the picture."""
    cells: dict[int, tuple[int, int, int]] = {}
    for number, area in enumerate(areas(medium)):
        for (row, column), feature in np.ndenumerate(area):
            cells[int(places[feature])] = (number, row, column)
    best = similarities.argmax(axis=1).tolist()
    listed = []
    for query_token, token in enumerate(best):
        area, row, column = cells.get(token, (None, None, None))
        value = float(similarities[query_token, token])
        listed.append({"value": value, "area": area, "row": row, "column": column, "token": token})
    return listed


def content(
    similarities: Floats,
    places: NDArray[np.int64],
    medium: Medium,
    *,
    ids: Sequence[int],
    pieces: Sequence[str],
    document_pieces: Sequence[str],
) -> dict[str, Any]:
    """Returns what the page draws.

    Args:
        similarities: [query tokens, document tokens].
        places: [features]: the document token that stands for each feature of the picture.
        ids, pieces: of the query's tokens.
        document_pieces: of the document's tokens.
    """
    best = shares(similarities, places, medium)
    for entry in best:
        token = entry.pop("token")
        if entry["area"] is None:
            entry["piece"] = document_pieces[token]
    return {
        "score": sum(entry["value"] for entry in best),
        "ids": list(ids),
        "pieces": list(pieces),
        "best": best,
        "height": medium.size[0],
        "width": medium.size[1],
        "areas": [
            {
                "rows": grid[0],
                "columns": grid[1],
                "region": list(region),
                "maps": np.ascontiguousarray(np.round(values.reshape(len(ids), -1), DIGITS)),
            }
            for values, grid, region in zip(
                maps(similarities, places, medium), medium.grids, medium.regions, strict=True
            )
        ],
    }
