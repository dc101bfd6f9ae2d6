"""What an export found in a checkpoint's files instead of being told: shown with its reason, and
with the way to change it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guess:
    """One thing that was found rather than asked for."""

    what: str
    value: str
    why: str
    override: str | None = None
    """What to pass to `poolrt export` to change it."""

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.value} "
            f"({self.why}{f'; to change: {self.override}' if self.override else ''})"
        )
