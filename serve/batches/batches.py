"""What the routes of batches have beside their request."""

from __future__ import annotations

from dataclasses import dataclass

from .running import Runner
from .store import Store


@dataclass(frozen=True, slots=True)
class Batches:
    store: Store
    runner: Runner
    endpoints: frozenset[str]
    """Paths that a batch may name."""
