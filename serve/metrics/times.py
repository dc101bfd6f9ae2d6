"""What is measured of one request: its model, its texts and tokens, and how long its steps took."""

from __future__ import annotations

from dataclasses import dataclass

TIMES = "poolrt.times"
"""Scope key of the Times of a request that has reached a model."""


@dataclass(slots=True)
class Times:
    """How long the steps of one request took, in seconds: for its headers, the metrics, its line of the log
    and its trace."""

    started: float
    """Reading of `time.perf_counter` when the request began."""
    model: str = ""
    """The name of the model that it asks."""
    prompts: int = 0
    """Texts, pairs or pictures that were queued; 0: refused before."""
    tokenise_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    tokens: int = 0
    """Computed tokens."""
    answered_s: float = 0.0
    """From the start to the engine's answer; 0: there is none."""
    total_s: float = 0.0
    """From the start to the result; 0: there is none."""
    serialise_s: float | None = None
    """Making the response; None: no response was made."""
