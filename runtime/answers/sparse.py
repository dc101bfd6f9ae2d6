"""Weights of tokens, from the output of a sparse head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Head, Manifest, Task
from ..inputs.encoder import Encoder
from ..outputs import Floats
from .postprocess import without_ends


def sparse_task(manifest: Manifest) -> Task | None:
    """The task whose head is sparse; None for a model without one."""
    return next((task for task in manifest.tasks if manifest.heads[task].sparse), None)


def token_weights(output: Any, head: Head, encoder: Encoder) -> dict[int, float]:
    """Token id -> weight of one output of a sparse head, special tokens left out."""
    ids = output.prompt_token_ids
    kept = ids[without_ends(head, ids)] if head.flat else ids
    return sparse_weights(output.outputs.data, kept, frozenset([*encoder.before, *encoder.after]))


def sparse_weights(array: Floats, ids: Sequence[int], special: frozenset[int]) -> dict[int, float]:
    """Token id -> weight of a sparse head.

    Of [tokens] weights (bge-m3) the largest of each token id, special tokens left out. Of a [vocabulary]
    vector (SPLADE) the positive ones.
    """
    if len(array) == len(ids):
        best: dict[int, float] = {}
        for token, weight in zip(ids, array.tolist(), strict=True):
            if weight > 0 and token not in special and weight > best.get(token, 0.0):
                best[token] = weight
        return best
    present: NDArray[np.int64] = np.flatnonzero(array > 0)
    return dict(zip(present.tolist(), array[present].tolist(), strict=True))
