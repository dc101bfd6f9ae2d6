"""Scores equal torch's and do not depend on order, neighbours or memory limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.answers import scoring
from poolrt.runtime.errors import InputError
from sentence_transformers import util

# Sums of a few dozen float32 products in another order than torch's.
ROUNDING = 2e-6


def vectors(seed: int, lengths: list[int], dim: int = 16) -> list[scoring.Floats]:
    generator = np.random.default_rng(seed)
    return [scoring.l2(generator.standard_normal((length, dim), dtype=np.float32)) for length in lengths]


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@given(st.integers(0, 1000), lengths, st.integers(1, 8), st.sampled_from([1, 40, 1 << 17]))
@settings(deadline=None)
def test_maxsim_is_the_plain_loop(seed, lengths, query_tokens, similarities):
    query, *documents = vectors(seed, [query_tokens, *lengths])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SIMILARITIES", similarities)
        found = scoring.maxsim(query, documents)
    plain = [
        float((torch.tensor(query) @ torch.tensor(document).T).amax(dim=1).sum()) if len(document) else 0.0
        for document in documents
    ]
    np.testing.assert_allclose(found, plain, atol=query_tokens * ROUNDING)
    assert found.dtype == np.float32


def test_maxsim_is_sentence_transformers():
    query, *documents = vectors(1, [7, 5, 9, 1])
    theirs = util.maxsim([torch.tensor(query)], [torch.tensor(document) for document in documents])
    np.testing.assert_allclose(scoring.maxsim(query, documents), theirs[0].numpy(), atol=7 * ROUNDING)


@given(st.integers(0, 1000), lengths, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_maxsim_does_not_depend_on_the_documents_order(seed, lengths, random):
    query, *documents = vectors(seed, [4, *lengths])
    order = list(range(len(documents)))
    random.shuffle(order)
    found = scoring.maxsim(query, documents)
    np.testing.assert_allclose(
        scoring.maxsim(query, [documents[index] for index in order]), found[order], atol=4 * ROUNDING
    )


def test_maxsim_of_nothing_is_zero():
    [query, document] = vectors(0, [3, 4])
    nothing = np.zeros((0, 16), dtype=np.float32)
    assert scoring.maxsim(query, []).tolist() == []
    assert scoring.maxsim(query, [nothing, document, nothing])[[0, 2]].tolist() == [0.0, 0.0]
    assert scoring.maxsim(nothing, [document]).tolist() == [0.0]


def test_pairs_are_scored_each_with_its_own_query():
    first, second, *documents = vectors(3, [4, 2, 5, 0, 3, 6])
    queries = [first, first, second, first]
    found = scoring.maxsim_pairs(queries, documents)
    alone = [scoring.maxsim(query, [document])[0] for query, document in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(found, alone, atol=4 * ROUNDING)


@pytest.mark.parametrize("shape", [(5, 16), (1, 3), (2, 3, 4)], ids=str)
def test_activations_are_torchs(shape):
    values = np.random.default_rng(0).normal(size=shape, scale=5).astype(np.float32)
    tensor = torch.tensor(values)
    expected = {
        "identity": tensor,
        "l2": torch.nn.functional.normalize(tensor, dim=-1),
        "sigmoid": tensor.sigmoid(),
        "softmax": tensor.softmax(dim=-1),
        "relu": tensor.relu(),
        "tanh": tensor.tanh(),
    }
    for activation, theirs in expected.items():
        ours = scoring.activate(activation, values)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=ROUNDING, atol=1e-7)
        assert ours.dtype == np.float32


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_large_logits_stay_finite(activation):
    values = np.array([[-1e4, 1e4, 0, 88, -88, 104, -104]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = scoring.activate(activation, values)
    theirs = (
        torch.tensor(values).sigmoid() if activation == "sigmoid" else torch.tensor(values).softmax(dim=-1)
    )
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-5, atol=1e-37)


def test_a_vector_of_zeros_has_no_direction():
    zeros = np.zeros((2, 4), dtype=np.float32)
    assert scoring.l2(zeros).tolist() == zeros.tolist()
    assert scoring.cosine(zeros, zeros).tolist() == [0.0, 0.0]


def test_cosine_is_torchs_and_takes_one_query_for_many():
    [first, second] = (np.random.default_rng(seed).normal(size=(6, 32)).astype(np.float32) for seed in (0, 1))
    theirs = torch.nn.functional.cosine_similarity(torch.tensor(first), torch.tensor(second), dim=-1)
    np.testing.assert_allclose(scoring.cosine(first, second), theirs.numpy(), atol=ROUNDING)
    np.testing.assert_allclose(
        scoring.cosine(first[0], second), scoring.cosine(np.repeat(first[:1], 6, 0), second), atol=ROUNDING
    )


def test_calibration_comes_before_the_activation():
    values = np.array([3.0, 1.0], dtype=np.float32)
    assert scoring.calibrate(values, None, None) is values
    assert scoring.calibrate(values, 1.0, 2.0).tolist() == [1.0, 0.0]
    assert scoring.calibrate(values, None, 2.0).tolist() == [1.5, 0.5]


@given(st.lists(st.sampled_from([0.0, -0.0, 0.5, -1.0, 2.0]), max_size=30))
def test_equal_scores_keep_the_callers_order(scores):
    order = scoring.rank(np.array(scores, dtype=np.float32)).tolist()
    assert order == sorted(range(len(scores)), key=lambda index: -scores[index])


def test_ranking_stops_at_top_n():
    scores = np.array([1, 3, 2, np.nan], dtype=np.float32)
    assert scoring.rank(scores, 2).tolist() == [1, 2]
    assert scoring.rank(scores, 0).tolist() == [1, 2, 0, 3]
    assert scoring.rank(scores, 9).tolist() == [1, 2, 0, 3]
    with pytest.raises(InputError, match="top_n is -1"):
        scoring.rank(scores, -1)


def test_short_vectors_have_torch_s_cosine():
    for length in (1e-2, 1e-4, 1e-6):
        first = np.array([[3, 4]], np.float32) * np.float32(length)
        second = np.array([[4, 3]], np.float32) * np.float32(length)
        expected = torch.nn.functional.cosine_similarity(
            torch.from_numpy(first), torch.from_numpy(second)
        ).numpy()
        np.testing.assert_allclose(scoring.cosine(first, second), expected, rtol=1e-4)
