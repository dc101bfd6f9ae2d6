"""Shape buckets and the graphs captured for them. This file keeps the books and calls nothing of CUDA.

A CUDA graph replays one exact shape. So a batch is padded up to a bucket, and the first batch of a bucket
captures its graph. Beyond a cap the least recently used graph is released: memory stays flat however shapes
vary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from ..artifact.manifest import KEPT, PAST, Profile

# Steps between two powers of two. Beyond 64 tokens at most 1/8 of a row is padding.
_STEPS_PER_OCTAVE = 8
_SMALLEST_STEP = 8

Key = TypeVar("Key", bound=Hashable)
Held = TypeVar("Held")


class Shape(NamedTuple):
    """The sizes of a batch's free axes."""

    rows: int
    width: int
    """Tokens of each text, or patches of each picture."""
    features: int = 0
    """Rows of features of the whole batch, the row of zeros included; 0: the graph reads none."""
    merged: int = 1
    """Patches of one row of features."""
    past: int = 0
    """Tokens of the prefix in front of every row."""
    kept: int = 0
    """Tokens whose keys and values are returned."""


def shape_of(axes: Sequence[str | int], shape: Shape) -> tuple[int, ...]:
    """The sizes of a tensor with the manifest's `axes` in a batch."""
    sizes = {
        "batch": shape.rows,
        "tokens": shape.width,
        "patches": shape.width,
        "rows": shape.width // shape.merged,
        "features": shape.features,
        PAST: shape.past,
        KEPT: shape.kept,
    }
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)


def bucket(
    rows: int,
    width: int,
    profile: Profile,
    *,
    features: int = 0,
    merged: int = 1,
    past: int = 0,
    returns: bool = False,
) -> Shape:
    """The shape that a batch is padded to, inside the profile that was chosen for it.

    Rows and features go to powers of two, the width to eighths of a power of two (multiples of 8 below 64,
    and of whole features), so a text model of 512 tokens meets at most 8 + 8 * 3 token counts.
    A prefix keeps its length, since no mask leaves a part of it out. A batch that `returns` keys and values
    returns those of its padding too.
    """
    step = max(_SMALLEST_STEP, _power_of_two(width) // (2 * _STEPS_PER_OCTAVE))
    step = -(-step // merged) * merged
    padded_rows, padded_width = _power_of_two(rows), -(-width // step) * step
    least, most = profile.smallest, profile.largest
    padded_rows = min(max(padded_rows, least[0]), most[0])
    padded_width = min(max(padded_width, least[1]), most[1])
    # A token has one feature at most, and the row of zeros stands before all.
    held = min(_power_of_two(features), padded_rows * padded_width + 1) if features else 0
    return Shape(padded_rows, padded_width, held, merged, past, padded_width if returns else 0)


def choose(
    rows: int, tokens: int, profiles: Sequence[Profile], *, past: int = 0, returns: bool = False
) -> int | None:
    """Index of the narrowest profile that accepts rows of `tokens` behind a prefix of `past`, preferably all
    `rows` at once; None: no profile is wide enough.

    `returns`: keys and values are returned, as one profile does alone.
    """
    fitting = [
        index
        for index, profile in enumerate(profiles)
        if profile.largest[1] >= tokens and profile.past >= past and profile.returns_past == returns
    ]
    if not fitting:
        return None
    return min(
        fitting,
        key=lambda index: (
            profiles[index].largest[0] < rows,
            profiles[index].largest[1],
            profiles[index].past,
            profiles[index].largest[0],
        ),
    )


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


class LeastRecent(Generic[Key, Held]):
    """Holds up to `capacity` values and releases the least recently used one. Belongs to one session and is
    not safe to use from several threads."""

    def __init__(self, capacity: int, release: Callable[[Held], None]) -> None:
        assert capacity > 0, f"a capacity of {capacity} holds nothing"
        self.capacity = capacity
        self.released = 0
        self._release = release
        self._held: OrderedDict[Key, Held] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Held]) -> Held:
        """Returns the held value, or makes a new one. The least recently used value is released before that,
        since both might not fit into memory."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        while len(self._held) >= self.capacity:
            self._drop(next(iter(self._held)))
        value = self._held[key] = make()
        return value

    def clear(self) -> None:
        while self._held:
            self._drop(next(iter(self._held)))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def _drop(self, key: Key) -> None:
        self._release(self._held.pop(key))
        self.released += 1
