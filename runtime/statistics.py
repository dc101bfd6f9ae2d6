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
    shared_items: int = 0
    """Texts that were not computed, because an equal one of the same call or batch was."""
    cached_items: int = 0
    """Texts that were not computed, because the answer to an equal one was kept."""
    cache_bytes: int = 0
    """Of the answers that are kept."""
    prefix_caching: bool = False
    """Whether texts are computed behind what they share."""
    prefix_queries: int = 0
    """Tokens of texts whose beginning was compared with those of others."""
    prefix_hits: int = 0
    """Those that were not computed, because another text begins with them too."""
    prefix_bytes: int = 0
    """Of the keys and values that are kept."""
    vision_items: int = 0
    """Pictures, tiles and frames that the vision graph computed."""
    vision_slots: int = 0
    """Their patches, and padding."""
    vision_batches: int = 0
    vision_s: float = 0.0
    """Of its engine."""
    vision_queued_items: int = 0
    vision_hits: int = 0
    """Those that were not computed, because their features were kept."""
    vision_shared: int = 0
    """Those that were not computed, because they were being computed for another prompt."""
    vision_cache_bytes: int = 0
    """Of the features that are kept."""
