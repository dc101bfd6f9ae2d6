"""How far an engine's answers may be from PyTorch's, and how far they are."""

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
    """Least mean cosine over a text's token vectors; MaxSim sums over tokens, so their mean
    is what a score moves by."""
    difference: float
    """Largest difference of a probability or logit, for logits beyond 1 as a share of them."""


# fp32: the same sums in another order. Worst seen over all tiny checkpoints and MiniLM: 1 - 4e-7,
# 2e-6; 1.04e-5 of a probability whose logits, of a decoder with tokens by the hundred, reach 10: 1e-5
# of such a logit is 2.5e-5 of its sigmoid. fp16 and bf16 keep 11 and 8 bits; norms, softmax, pooling
# and heads stay fp32, so errors do not build up along the depth. int8: 0.98 is the promise; a score
# may move by a tenth of its range.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(cosine=0.999999, token_cosine=0.999999, difference=5e-5),
    "fp16": Tolerance(cosine=0.9995, token_cosine=0.999, difference=0.01),
    "bf16": Tolerance(cosine=0.995, token_cosine=0.99, difference=0.05),
    "int8": Tolerance(cosine=0.98, token_cosine=0.97, difference=0.1),
}
_TINY = 1e-12


def compared(
    engine: str,
    precision: Precision,
    task: Task,
    shape: str,
    found: Sequence[Floats],
    expected: Sequence[Floats],
    *,
    ranks: bool = False,
) -> Evidence:
    """What one engine answered for one task and shape class, beside PyTorch. `ranks`: the first text is a
    query, the rest its documents."""
    allowed = TOLERANCES[precision]
    order = _agreement(_scores(task, found), _scores(task, expected)) if ranks and len(found) > 2 else None
    cosine, bound = None, allowed.difference
    if task in ("embed", "token_embed"):
        cosine = min(_cosine(one, other) for one, other in zip(found, expected, strict=True))
        bound = allowed.cosine if task == "embed" else allowed.token_cosine
    return Evidence(
        engine=engine,
        task=task,
        shape=shape,
        texts=len(found),
        worst_cosine=cosine,
        worst_difference=max(_difference(one, other) for one, other in zip(found, expected, strict=True)),
        rank_agreement=order,
        tolerance=bound,
    )


def holds(evidence: Evidence) -> bool:
    if evidence.worst_cosine is not None:
        return evidence.worst_cosine >= evidence.tolerance
    assert evidence.worst_difference is not None, (
        f"nothing was measured for {evidence.task}, {evidence.shape}"
    )
    return evidence.worst_difference <= evidence.tolerance


def told(evidence: Evidence) -> str:
    measured = (
        f"cosine {evidence.worst_cosine:.7f}, at least {evidence.tolerance:g} is allowed"
        if evidence.worst_cosine is not None
        else f"difference {evidence.worst_difference:.2e}, at most {evidence.tolerance:g} is allowed"
    )
    return f"{evidence.engine}, {evidence.task}, {evidence.shape}: {measured}"


def _cosine(found: Floats, expected: Floats) -> float:
    """Of [dim], or the mean over the rows of [tokens, dim]. What is not finite or has another shape
    agrees with nothing: -1."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return -1.0
    if found.size == 0:  # a text of which no row is answered (ColBERT's skip list)
        return 1.0
    one, other = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    # Two zero vectors are the same vector.
    same = np.where(
        norms < _TINY,
        np.abs(one - other).max(axis=-1) < _TINY,
        (one * other).sum(axis=-1) / np.maximum(norms, _TINY),
    )
    return float(np.mean(same))


def _difference(found: Floats, expected: Floats) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    apart = np.abs(found.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    return float(apart.max(initial=0.0))


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


def _agreement(found: Floats, expected: Floats) -> float:
    """Share of neighbouring pairs, in PyTorch's order, that the engine puts in the same order; ties
    of PyTorch's always agree."""
    order = np.argsort(-expected, kind="stable")
    falls = found[order][:-1] >= found[order][1:]
    ties = np.isclose(expected[order][:-1], expected[order][1:], rtol=1e-5, atol=1e-6)
    return float(np.mean(falls | ties))
