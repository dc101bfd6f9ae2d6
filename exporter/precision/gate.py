"""What int8 must hold beside PyTorch: every text, all texts on average, and the order of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...runtime.artifact.manifest import Task
from ...runtime.outputs import Floats
from ..proof import evidence

MEAN_COSINE = 0.99
"""Least mean cosine of embeddings."""
SAME_ORDER = 0.99
"""Least share of the pairs of scores that differ by more than NOISE and keep their order."""
NOISE = 0.05
"""Half of what a single score may move by."""


def failures(name: str, task: Task, answers: Sequence[Floats], expected: Sequence[Floats]) -> list[str]:
    """What is beyond the tolerance of int8, a line each.

    Args:
        name: of what computed the answers.
        answers: of each text, [dim] or [tokens, dim]; as many as `expected`, PyTorch's.
    """
    shape = f"{len(answers)} texts"
    comparison = evidence.compared(name, "int8", task, shape, answers, expected)
    lines = [] if evidence.holds(comparison) else [evidence.summary(comparison)]
    if lines:
        return lines
    if task == "embed":
        mean = float(np.mean([evidence.cosine(*pair) for pair in zip(answers, expected, strict=True)]))
        if mean < MEAN_COSINE:
            lines.append(
                f"{name}, {task}, {shape}: mean cosine {mean:.4f}, at least {MEAN_COSINE} is allowed"
            )
    elif task == "classify" and all(answer.size == 1 for answer in expected):
        share = same_order(np.concatenate(answers), np.concatenate(expected))
        if share < SAME_ORDER:
            lines.append(
                f"{name}, {task}, {shape}: {share:.1%} of the pairs keep their order, at least "
                f"{SAME_ORDER:.0%} must"
            )
    return lines


def same_order(scores: Floats, expected: Floats) -> float:
    """Share of the pairs of texts, of those whose scores differ by more than NOISE, that keep their order; 1
    where there is no such pair."""
    apart = expected[:, None] - expected[None] > NOISE
    kept = (scores[:, None] > scores[None]) & apart
    return float(kept.sum() / apart.sum()) if apart.any() else 1.0
