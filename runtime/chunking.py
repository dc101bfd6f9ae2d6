"""Texts beyond the model's limit, embedded in pieces: consecutive cuts of the token list, their vectors averaged by length.

vLLM's chunked processing (`enable_chunked_processing` of the pooler config): special tokens stand once, at the ends of the whole list;
the mean is weighted by tokens and not normalised again, so its length is at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def pieces(ids: Sequence[int], max_tokens: int) -> list[Sequence[int]]:
    """`ids` in order, every piece `max_tokens` long but the last, which is not empty."""
    return [ids[start : start + max_tokens] for start in range(0, len(ids), max_tokens)]


def merge(vectors: Floats, tokens: Sequence[int]) -> Floats:
    """[dim] float32 from [pieces, dim] and the tokens of each piece. One piece comes back unchanged, bit for bit."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if len(vectors) == 1:
        return vectors[0]
    weights = np.asarray(tokens, dtype=np.float32)
    return (weights @ vectors) / weights.sum(dtype=np.float32)
