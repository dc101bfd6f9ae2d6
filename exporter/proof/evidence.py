"""Compares an engine's answers with PyTorch's, and says how far apart they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.artifact.manifest import Evidence, Precision, Task
from ...runtime.outputs import Floats


@dataclass(frozen=True, slots=True)
class Tolerance:
    cosine: float
    """Least cosine of a text's vector."""
    token_cosine: float
    """Least mean cosine over a text's token vectors. MaxSim sums over tokens, so a score moves by their
    mean."""
    difference: float
    """Largest difference of a probability or logit; of a logit beyond 1, as a share of it."""


# fp32: the same sums in another order. The worst seen over all tiny checkpoints and MiniLM is a cosine of
# 1 - 4e-7 and a difference of 2e-6. Decoders on hundreds of tokens reach logits of 10 and 1.04e-5 of a
# probability; 1e-5 of such a logit is 2.5e-5 of its sigmoid.
# fp16 and bf16 keep 11 and 8 bits. Norms, softmax, pooling and heads stay fp32, so errors do not build up
# along the depth.
# int8 and weights of 8 or 4 bits: 0.98 is the promise, and a score may move by a tenth of its range.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(cosine=0.999999, token_cosine=0.999999, difference=5e-5),
    "fp16": Tolerance(cosine=0.9995, token_cosine=0.999, difference=0.01),
    "bf16": Tolerance(cosine=0.995, token_cosine=0.99, difference=0.05),
    "int8": Tolerance(cosine=0.98, token_cosine=0.97, difference=0.1),
    "int8-weights": Tolerance(cosine=0.98, token_cosine=0.97, difference=0.1),
    "int4-weights": Tolerance(cosine=0.98, token_cosine=0.97, difference=0.1),
}
_TINY = 1e-12


def compared(
    engine: str,
    precision: Precision,
    task: Task,
    shape: str,
    answers: Sequence[Floats],
    expected: Sequence[Floats],
    *,
    ranks: bool = False,
) -> Evidence:
    """Compares an engine's answers for one task and shape class with PyTorch's.

    Args:
        answers: a text's answer each, [dim] or [tokens, dim].
        expected: PyTorch's of the same texts.
        ranks: the first text is a query and the others are its documents, whose order is compared too.
    """
    allowed = TOLERANCES[precision]
    agreement = None
    if ranks and len(answers) > 2:
        agreement = _agreement(_scores(task, answers), _scores(task, expected))
    worst, mean, bound = None, None, allowed.difference
    if task in ("embed", "token_embed"):
        cosines = [cosine(*pair) for pair in zip(answers, expected, strict=True)]
        worst, mean = min(cosines), float(np.mean(cosines))
        bound = allowed.cosine if task == "embed" else allowed.token_cosine
    differences = [_difference(*pair) for pair in zip(answers, expected, strict=True)]
    return Evidence(
        engine=engine,
        task=task,
        shape=shape,
        texts=len(answers),
        worst_cosine=worst,
        worst_difference=max(differences),
        mean_cosine=mean,
        mean_difference=float(np.mean(differences)),
        rank_agreement=agreement,
        tolerance=bound,
    )


def holds(evidence: Evidence) -> bool:
    """Whether what was measured is within the tolerance."""
    if evidence.worst_cosine is not None:
        return evidence.worst_cosine >= evidence.tolerance
    assert evidence.worst_difference is not None, (
        f"nothing was measured for {evidence.task}, {evidence.shape}"
    )
    return evidence.worst_difference <= evidence.tolerance


def divided(evidence: Sequence[Evidence]) -> tuple[list[Evidence], list[str]]:
    """Returns the evidence without a lower precision of OpenVINO that is too far from PyTorch somewhere, and
    a note for each of those. They refuse no export, because `engine="auto"` measures before it takes one."""
    failed = {
        row.engine: summary(row)
        for row in evidence
        if row.engine.startswith("openvino:") and not row.engine.endswith(":fp32") and not holds(row)
    }
    kept = [row for row in evidence if row.engine not in failed]
    return kept, [f"not for this model: {line}" for line in failed.values()]


def summary(evidence: Evidence) -> str:
    """One line: where it was measured, what came out and what is allowed."""
    measured = (
        f"cosine {evidence.worst_cosine:.7f}, at least {evidence.tolerance:g} is allowed"
        if evidence.worst_cosine is not None
        else f"difference {evidence.worst_difference:.2e}, at most {evidence.tolerance:g} is allowed"
    )
    return f"{evidence.engine}, {evidence.task}, {evidence.shape}: {measured}"


def cosine(answer: Floats, expected: Floats) -> float:
    """Of [dim], or the mean over the rows of [tokens, dim]. -1 where the shapes differ or a number is not
    finite."""
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return -1.0
    if answer.size == 0:  # every token of the text is on ColBERT's skip list
        return 1.0
    a, b = answer.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    # Two zero vectors are the same vector.
    both_zero = np.abs(a - b).max(axis=-1) < _TINY
    cosines = (a * b).sum(axis=-1) / np.maximum(norms, _TINY)
    return float(np.mean(np.where(norms < _TINY, both_zero, cosines)))


def _difference(answer: Floats, expected: Floats) -> float:
    """The largest; infinite where the shapes differ or a number is not finite."""
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    differences = np.abs(answer.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    return float(differences.max(initial=0.0))


def _scores(task: Task, answers: Sequence[Floats]) -> Floats:
    if task == "embed":
        return np.array([answers[0] @ other for other in answers[1:]], dtype=np.float32)
    if task == "token_embed":
        return np.array(
            [(answers[0] @ other.T).max(axis=1).sum() if len(other) else 0.0 for other in answers[1:]],
            dtype=np.float32,
        )
    return np.array(
        [np.max(answer, initial=0.0) if answer.ndim != 1 else answer[0] for answer in answers],
        dtype=np.float32,
    )


def _agreement(scores: Floats, expected: Floats) -> float:
    """Share of neighbouring pairs, in PyTorch's order, that the engine puts in the same order.

    A pair that PyTorch scores alike always agrees.
    """
    order = np.argsort(-expected, kind="stable")
    falls = scores[order][:-1] >= scores[order][1:]
    ties = np.isclose(expected[order][:-1], expected[order][1:], rtol=1e-5, atol=1e-6)
    return float(np.mean(falls | ties))
