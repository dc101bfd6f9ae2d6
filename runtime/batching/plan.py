"""Which items run together: pure functions over the costs of items (`Item.cost`, for text its tokens).

A batch costs its launch plus its slots (rows x dearest row). Joining items saves launches and spends slots on
padding. Where costs are spread evenly, the cheapest batch is the one whose padding costs just one launch. So
a batch grows among the nearest neighbours in cost until its padding would cost more than `launch_tokens`
(measured in docs/decisions/batching.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..artifact.manifest import Head, Profile

WORTH_LAUNCHES = 2
"""A free lane gets a batch of its own only if that batch is worth this many launches."""

PREFIX_SLOTS = 8
"""A batch attends to so many times `max_tokens` keys, prefixes repeated: what its keys and values take beside
its activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one batch may hold."""

    max_tokens: int
    """Most slots of one batch. A single longer item still runs, alone."""
    launch_tokens: int
    """What starting a batch costs, in tokens of work."""
    packed_width: int | None = None
    """For a graph that computes padding in attention only: the width of rows (in tokens) from which on a slot
    of padding costs as much as a token. In narrower rows it costs less, in proportion. None: it always costs
    as much."""
    max_rows: int = 1024
    profiles: tuple[Profile, ...] = ()
    """Shapes the engine accepts; empty: any."""
    prefix: int = 0
    """Tokens in front of every row, whose keys and values are repeated for each."""

    def padding(self, width: int) -> int:
        """Most slots of padding in one batch with rows of this width, which are those that cost one
        launch."""
        return (
            self.launch_tokens
            if self.packed_width is None
            else self.launch_tokens * max(width, self.packed_width) // max(width, 1)
        )

    def rows(self, width: int) -> int:
        """Most rows of this width, at least 1."""
        rows = min(self.max_rows, self.max_tokens // max(width, 1))
        if self.prefix:
            rows = min(rows, PREFIX_SLOTS * self.max_tokens // (self.prefix + width))
        if self.profiles:
            rows = min(
                rows,
                max(
                    (
                        profile.largest[0]
                        for profile in self.profiles
                        if profile.largest[1] >= width and profile.past >= self.prefix
                    ),
                    default=1,
                ),
            )
        return max(rows, 1)

    def shared(self, queued_tokens: int, lanes: int) -> BatchLimits:
        """The limits for one of `lanes` free lanes, so that each of them gets its share of what is queued,
        but never less than what a few launches cost."""
        if lanes < 2:
            return self
        share = max(-(-queued_tokens // lanes), WORTH_LAUNCHES * self.launch_tokens)
        return self if share >= self.max_tokens else replace(self, max_tokens=share)

    def shape(self, rows: int, width: int) -> tuple[int, int]:
        """The shape (rows, width) to compute: the smallest that a profile accepts."""
        shapes = [
            (max(rows, profile.smallest[0]), max(width, profile.smallest[1]))
            for profile in self.profiles
            if profile.largest[0] >= rows and profile.largest[1] >= width
        ]
        return min(shapes, key=lambda shape: shape[0] * shape[1], default=(rows, width))


def bounded(slots: int, heads: Iterable[Head], largest_bytes: int) -> int:
    """The most slots, up to `slots`, for which no head's own buffer passes `largest_bytes`. SPLADE
    without slices pools float32 logits of [batch, tokens, vocabulary], a hundred times what a token takes
    elsewhere."""
    widest = max((head.dim for head in heads if head.pool in ("splade", "splade_sum")), default=0)
    return max(1, min(slots, largest_bytes // (4 * widest))) if widest else slots


def pick(costs: Sequence[int], seed: int, limits: BatchLimits) -> tuple[int, int]:
    """The range [first, last) of items to compute together with the one at `seed`. `costs` rise."""
    first, last, width, padding = seed, seed + 1, costs[seed], 0
    while True:
        rows = last - first
        below = width - costs[first - 1] if first > 0 and rows < limits.rows(width) else None
        above = (
            (costs[last] - width) * rows if last < len(costs) and rows < limits.rows(costs[last]) else None
        )
        added = min((more for more in (below, above) if more is not None), default=None)
        if added is None:
            return first, last
        grown = width if added == below else costs[last]
        if padding + added > limits.padding(grown):
            return first, last
        padding, width = padding + added, grown
        if added == below:
            first -= 1
        else:
            last += 1


def plan(costs: Sequence[int], limits: BatchLimits) -> list[list[int]]:
    """Batches of indices into `costs`, the dearest first. Every index is in exactly one batch."""
    order = sorted(range(len(costs)), key=lambda index: costs[index])
    rising = [costs[index] for index in order]
    batches = []
    while rising:
        first, _ = pick(rising, len(rising) - 1, limits)
        batches.append(order[first:])
        del order[first:], rising[first:]
    return batches


def padding(costs: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Slots of padding per token of cost."""
    slots = sum(len(batch) * max(costs[index] for index in batch) for batch in batches)
    return slots / max(sum(costs), 1) - 1
