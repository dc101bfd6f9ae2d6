"""A decision that an export made from a checkpoint's files, with its reason and the way to change it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guess:
    """One decision that the user did not make."""

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
