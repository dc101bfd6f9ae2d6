"""What a model has done since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the model was loaded; `queued_*`, `running_*` and `stalled_s` are the values of
    now. `*_s` are seconds."""

    requests: int
    """Calls."""
    items: int
    tokens: int
    slots: int
    """Tokens and padding."""
    padding: float
    """Slots over tokens, minus 1."""
    batches: int
    tokenize_s: float
    queue_s: float
    engine_s: float
    failed: int
    cancelled: int
    expired: int
    refused: int
    queued_items: int
    queued_tokens: int
    running_items: int
    stalled_s: float
