"""A change of what a server serves, as its processes tell each other about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import ApiError


@dataclass(frozen=True, slots=True)
class Change:
    kind: Literal["load", "unload"]
    name: str | None
    """Of the served model; None: the artifact's own."""
    place: str = ""
    """Of a load: the artifact's folder, or its name in the store."""


@dataclass(frozen=True, slots=True)
class Loaded:
    name: str
    tasks: tuple[str, ...]
    replaced: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a change was not made: an ApiError that can be sent to another process."""

    status: int
    message: str
    param: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, error: ApiError) -> Refusal:
        return cls(error.status, str(error), error.param, error.kind)

    def error(self) -> ApiError:
        headers = {"Connection": "close"} if self.status == 503 else None
        return ApiError(self.status, self.message, param=self.param, kind=self.kind, headers=headers)


@dataclass(frozen=True, slots=True)
class Order:
    """What a process has to do for a change."""

    step: Literal["prepare", "commit", "drop"]
    change: Change | None = None
    """To prepare."""


Reply = Change | Loaded | Refusal | None
"""To an order: of `prepare` the change with its final name and folder, of `commit` of a load what was loaded;
Refusal: it could not be done."""


def compacted(history: Iterable[Change]) -> list[Change]:
    """The changes that lead to the same models as all of them, at most two for each name."""
    kept: list[Change] = []
    for change in history:
        before = [index for index, earlier in enumerate(kept) if earlier.name == change.name]
        if change.kind == "unload":
            kept = [earlier for earlier in kept if earlier.name != change.name]
        elif before and kept[before[-1]].kind == "load":  # a model that is replaced keeps its place
            kept[before[-1]] = change
            continue
        kept.append(change)
    return kept
