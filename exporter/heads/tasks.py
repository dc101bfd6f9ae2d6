"""The parts of a plan: what the graph computes for one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...runtime.artifact.manifest import Head, Pool, Scoring, Task
from .layers import Steps

POOLER = '--pooler-config \'{"pooling_type": "CLS|LAST|MEAN"}\''


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskHead:
    """What the graph computes for one task: layers on every token, pooling, layers on what was pooled."""

    task: Task
    pools: tuple[Pool, ...]
    """Their vectors are concatenated. `tokens` alone: no pooling. Empty: the published class pools."""
    published: str | None = None
    """Class of transformers that computes this part with its own head."""
    before: Steps = ()
    """Layers on every token, [batch, tokens, width]."""
    after: Steps = ()
    """Layers on the pooled vectors, [batch, width]."""
    dim: int
    """Width of the result."""


TaskPlan = tuple[tuple[Task, ...], Scoring | None, list[TaskHead], dict[str, Head]]
"""Tasks, the scoring of the first, their parts and their heads."""


def scoring_of(task: Task, heads: Mapping[str, Head]) -> Scoring | None:
    """Returns how a pair is scored by a model whose default task is `task`; None: it cannot score pairs."""
    if task == "classify":
        return "cross-encoder" if heads[task].dim == 1 else None
    return {"embed": "bi-encoder", "token_embed": "late-interaction"}.get(task)  # pyright: ignore[reportReturnType]
