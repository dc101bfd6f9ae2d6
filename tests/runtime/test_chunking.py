"""Long inputs in pieces: nothing lost, and the mean that vLLM documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from poolrt.runtime import chunking


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(1, 60))
def test_pieces_are_the_whole_in_order(ids, max_tokens):
    found = chunking.pieces(ids, max_tokens)
    assert [number for piece in found for number in piece] == ids
    assert all(len(piece) == max_tokens for piece in found[:-1])
    assert 0 < len(found[-1]) <= max_tokens


def test_the_mean_is_weighted_by_tokens():
    vectors = np.array([[1.0, 1.0], [4.0, 7.0]], dtype=np.float32)
    np.testing.assert_allclose(chunking.merge(vectors, [3, 2]), [2.2, 3.4], rtol=1e-6)


def test_one_piece_is_unchanged():
    vector = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)
    assert chunking.merge(vector, [5]).tobytes() == vector[0].tobytes()
