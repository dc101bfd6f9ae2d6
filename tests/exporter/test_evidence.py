"""How far answers may be apart: the promised numbers, and that what is a little beyond them is refused."""

from __future__ import annotations

import numpy as np
import pytest
from poolrt.exporter.proof import evidence
from poolrt.exporter.proof.evidence import TOLERANCES, compared, holds
from poolrt.runtime.artifact.manifest import Precision, Task

RNG = np.random.default_rng(0)
VECTORS = [RNG.standard_normal(64).astype(np.float32) for _ in range(3)]
TOKENS = [RNG.standard_normal((length, 64)).astype(np.float32) for length in (3, 1, 7)]
PROMISED: dict[Precision, tuple[float, float, float]] = {
    "fp32": (0.999999, 0.999999, 5e-5), "fp16": (0.9995, 0.999, 0.01), "bf16": (0.995, 0.99, 0.05),
    "int8": (0.98, 0.97, 0.1), "int8-weights": (0.98, 0.97, 0.1), "int4-weights": (0.98, 0.97, 0.1),
}  # fmt: skip


def turned(vector: np.ndarray, cosine: float) -> np.ndarray:
    """A vector of that cosine to `vector`, of the same length."""
    unit = vector.astype(np.float64) / np.linalg.norm(vector)
    other = RNG.standard_normal(len(vector))
    other -= (other @ unit) * unit
    other /= np.linalg.norm(other)
    return ((cosine * unit + np.sqrt(1 - cosine**2) * other) * np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("precision", PROMISED)
def test_tolerances_are_the_promised_ones(precision: Precision):
    allowed = TOLERANCES[precision]
    assert (allowed.cosine, allowed.token_cosine, allowed.difference) == PROMISED[precision]
    assert set(TOLERANCES) == set(PROMISED)


@pytest.mark.parametrize("precision", PROMISED)
@pytest.mark.parametrize("task", ["embed", "token_embed"])
def test_a_vector_just_beyond_the_tolerance_is_refused(precision: Precision, task: Task):
    bound = PROMISED[precision][0 if task == "embed" else 1]
    room = 1 - bound
    for share, fine in ((0.8, True), (1.2, False)):
        # The last text of three is off, the others are equal.
        if task == "embed":
            found = [*VECTORS[:2], turned(VECTORS[2], 1 - share * room)]
            measured = compared("onnx", precision, task, "s", found, VECTORS)
        else:
            rows = np.stack([turned(row, 1 - share * room) for row in TOKENS[2]])
            measured = compared("onnx", precision, task, "s", [*TOKENS[:2], rows], TOKENS)
        assert measured.tolerance == bound
        assert measured.worst_cosine == pytest.approx(1 - share * room, abs=room / 10)
        assert holds(measured) == fine
        assert f"at least {bound:g} is allowed" in evidence.summary(measured)


@pytest.mark.parametrize("precision", PROMISED)
@pytest.mark.parametrize("task", ["classify", "token_classify"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 20.0], ids=["probabilities", "one", "logits"])
def test_a_score_just_beyond_the_tolerance_is_refused(precision: Precision, task: Task, scale: float):
    """Beyond 1 a difference counts as a share of the logit."""
    bound = PROMISED[precision][2]
    expected = [np.full(3, 0.1, np.float32), np.array([0.1, -scale, 0.2], np.float32)]
    for share, fine in ((0.9, True), (1.1, False)):
        found = [expected[0], expected[1] + np.array([0, share * bound * max(1.0, scale), 0], np.float32)]
        measured = compared("onnx", precision, task, "s", found, expected)
        assert measured.worst_cosine is None
        assert measured.tolerance == bound
        assert measured.worst_difference == pytest.approx(share * bound, rel=0.03)
        assert holds(measured) == fine
        assert f"at most {bound:g} is allowed" in evidence.summary(measured)


def test_exactly_the_tolerance_is_enough():
    expected = [np.array([0.0], np.float32)]
    measured = compared("onnx", "bf16", "classify", "s", [np.array([0.05], np.float32)], expected)
    assert measured.worst_difference is not None
    assert holds(measured) == (measured.worst_difference <= 0.05)
    same = compared("onnx", "fp32", "embed", "s", VECTORS, VECTORS)
    assert same.texts == 3
    assert holds(same)


@pytest.mark.parametrize("task", ["embed", "token_embed", "classify"])
@pytest.mark.parametrize("wrong", ["nan", "infinite", "shape"])
def test_what_is_no_answer_agrees_with_nothing(task: Task, wrong: str):
    expected = TOKENS if task == "token_embed" else VECTORS
    bad = expected[1].copy()
    if wrong == "shape":
        bad = bad[..., :-1]
    else:
        bad[..., 0] = np.nan if wrong == "nan" else np.inf
    measured = compared("onnx", "int8", task, "s", [expected[0], bad, expected[2]], expected)
    assert not holds(measured)
    assert measured.worst_difference == float("inf")
    assert measured.worst_cosine == (None if task == "classify" else -1.0)


def test_nothing_equals_nothing_and_zero_only_zero():
    none = np.zeros((0, 64), np.float32)
    zero, small = np.zeros(64, np.float32), np.full(64, 1e-3, np.float32)
    assert compared("onnx", "fp32", "token_embed", "s", [none], [none]).worst_cosine == 1.0
    assert compared("onnx", "fp32", "embed", "s", [zero], [zero]).worst_cosine == 1.0
    assert compared("onnx", "fp32", "embed", "s", [zero], [small]).worst_cosine == 0.0
    once = np.where(np.arange(64) == 5, np.float32(1e-3), np.float32(0))
    assert compared("onnx", "fp32", "embed", "s", [once], [zero]).worst_cosine == 0.0
    assert compared("onnx", "fp32", "embed", "s", [small], [-small]).worst_cosine == pytest.approx(-1.0)
    half = np.stack([VECTORS[0], -VECTORS[0]])
    assert compared(
        "onnx", "fp32", "token_embed", "s", [half], [np.abs(half) * 0 + VECTORS[0]]
    ).worst_cosine == pytest.approx(0.0)


def test_ranks_agree_where_neighbours_keep_their_order():
    query, near, middle, far = (
        np.array([cosine, np.sqrt(1 - cosine**2)], np.float32) for cosine in (1.0, 0.9, 0.5, 0.1)
    )
    expected = [query, far, near, middle]

    def agreement(found: list[np.ndarray], task: Task = "embed") -> float | None:
        return compared("onnx", "int8", task, "s", found, expected, ranks=True).rank_agreement

    assert agreement(expected) == 1.0
    assert agreement([query, middle, near, far]) == 0.5  # the last two changed places
    assert agreement([query, far, middle, near]) == 0.5  # the first two
    assert agreement([query, near, far, middle]) == 0.0
    assert compared("onnx", "int8", "embed", "s", expected, expected).rank_agreement is None
    assert (
        compared("onnx", "int8", "embed", "s", expected[:2], expected[:2], ranks=True).rank_agreement is None
    )
    # A tie of the reference's may fall either way.
    tied = [query, near, near * 1.0000001, far]
    assert (
        compared(
            "onnx", "int8", "embed", "s", [query, near * 0.99, near, far], tied, ranks=True
        ).rank_agreement
        == 1.0
    )
    scores = [np.array([value], np.float32) for value in (0.9, 0.2, 0.5)]
    swapped = [scores[0], scores[2], scores[1]]
    assert compared("onnx", "int8", "classify", "s", swapped, scores, ranks=True).rank_agreement == 0.5


def test_ranks_of_token_vectors_are_maxsims():
    query = np.eye(3, dtype=np.float32)[:2]
    both, one, none = (
        np.eye(3, dtype=np.float32),
        np.eye(3, dtype=np.float32)[:1],
        np.zeros((0, 3), np.float32),
    )
    expected = [query, one, both, none]
    measured = compared("onnx", "int8", "token_embed", "s", expected, expected, ranks=True)
    assert measured.rank_agreement == 1.0
    swapped = [query, both[:1], one * 0.5, none]
    assert compared("onnx", "int8", "token_embed", "s", swapped, expected, ranks=True).rank_agreement == 0.5


def test_ties_of_pytorch_agree_in_any_order():
    query, documents = np.array([1, 0], np.float32), [np.array([x, 0], np.float32) for x in (0.5, 0.5, 0.2)]
    found = [query, np.array([0.49, 0], np.float32), *documents[1:]]
    made = evidence.compared("e", "fp32", "embed", "odd batch", found, [query, *documents], ranks=True)
    assert made.rank_agreement == 1.0


def test_late_scores_are_summed_over_the_query_s_tokens():
    query = np.eye(2, dtype=np.float32)
    one, both = np.array([[1, 0]] * 3, np.float32), np.array([[0.9, 0.9]], np.float32)
    assert evidence._scores("token_embed", [query, one, both]).tolist() == pytest.approx([1.0, 1.8])


def test_means_are_those_of_the_texts():
    rng = np.random.default_rng(3)
    expected = [*rng.normal(size=(5, 8)).astype(np.float32)]
    answers = [row + np.float32(0.01) * number for number, row in enumerate(expected)]
    measured = compared("onnx", "fp32", "embed", "s", answers, expected)
    cosines = [
        np.corrcoef(np.append(answer, -answer), np.append(row, -row))[0, 1]
        for answer, row in zip(answers, expected, strict=True)
    ]
    assert measured.mean_cosine == pytest.approx(np.mean(cosines))
    assert measured.worst_cosine == pytest.approx(min(cosines))
    differences = [
        (np.abs(answer - row) / np.maximum(1, np.abs(row))).max()
        for answer, row in zip(answers, expected, strict=True)
    ]
    assert measured.mean_difference == pytest.approx(np.mean(differences), rel=1e-5)
    scores = compared("onnx", "fp32", "classify", "s", answers, expected)
    assert scores.mean_cosine is None
    assert scores.mean_difference == measured.mean_difference
