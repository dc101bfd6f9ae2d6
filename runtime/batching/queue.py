"""The worker's records: calls, their queued items, their results, and the counters."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..inputs.items import Item, Prefix, VisionItem
from .plan import BatchLimits, pick

LATE = "not computed in the time that was given; try again later, or give more"
"""The text of a DeadlineExceeded."""
Row = NDArray[np.float32]
Kind = tuple[tuple[str, ...], int, int]
"""Names of the graph outputs to compute, the priority, and the `id` of the prefix (0: none)."""


@dataclass(slots=True)
class Answer:
    """The results of one call."""

    rows: list[Row]
    """[dim] or [tokens, dim] per item, without padding, as the graph returns them."""
    tokens: int
    """The cost of all items."""
    others: tuple[list[Row], ...] = ()
    """The rows of every further graph output, in the order of the call."""
    slots: int = 0
    """Slots that were computed, padding included."""
    queue_s: float = 0.0
    """Seconds from submission to the first batch."""
    engine_s: float = 0.0
    """Seconds of the batches that held its items."""


@dataclass(slots=True)
class Counters:
    """Sums since the worker started; `queued_*` and `running_items` are of this moment."""

    items: int = 0
    tokens: int = 0
    slots: int = 0
    batches: int = 0
    queue_s: float = 0.0
    """Seconds, summed over items."""
    engine_s: float = 0.0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    queued_items: int = 0
    queued_tokens: int = 0
    """The cost of the queued items."""
    running_items: int = 0
    shared_items: int = 0
    """Items that were not computed, because an equal one of the same call or batch was."""
    cached_items: int = 0
    """Items that were not computed, because the rows of an equal one were kept."""

    @property
    def padding(self) -> float:
        return self.slots / max(self.tokens, 1) - 1


class Ticket(Future[Answer]):
    """The future of one call, which also counts its computed items."""

    done_items = 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Call:
    """One `submit` and its state."""

    future: Ticket
    answer: Answer
    remaining: int
    submitted: float
    deadline: float | None
    started: float | None = None
    entries: list[Entry] = field(default_factory=list)
    """Its items that are still queued or running."""
    place: float = 0.0
    """The place in line of its last item."""
    computed: Callable[[int], None] | None = None
    """Called in the worker's thread with the index of each item that was computed."""
    outputs: tuple[str, ...] = ()
    priority: int = 0
    salt: str = ""
    """Rows that are kept are shared with calls of the same salt only."""
    coming: int = 0
    """Items that are not prepared yet."""
    held: dict[int, Entry] = field(default_factory=dict)
    """Index -> an item that is admitted and waits for its pictures."""
    held_cost: dict[int, int] = field(default_factory=dict)
    """Index -> the cost of a held item and of its pictures."""


@dataclass(slots=True, eq=False)
class Entry:
    """One item in the queue."""

    call: Call
    index: int
    item: Item | VisionItem
    cost: int
    """`Item.cost`, kept here because it is compared often."""
    outputs: tuple[str, ...]
    priority: int = 0
    """Lower is sooner. 0 for all under the policy `fcfs`."""
    order: tuple[int, int] = (0, 0)
    """(cost, arrival), by which the items of a kind are sorted."""
    key: bytes | None = None
    """`Item.key`: entries of one batch that have the same are computed once."""
    twins: list[int] = field(default_factory=list)
    """Indices of the call's other items with the same key, which are computed with this one."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Of all items of the call that it computes."""
        return self.index, *self.twins

    @property
    def kind(self) -> Kind:
        return self.outputs, self.priority, 0 if self.prefix is None else id(self.prefix)

    @property
    def prefix(self) -> Prefix | None:
        """The tokens in front of it that are computed already."""
        return self.item.prefix if isinstance(self.item, Item) else None


_ORDER = operator.attrgetter("order")


class Pool:
    """Queued items of one kind, sorted by cost."""

    def __init__(self) -> None:
        self.costs: list[int] = []
        self.entries: list[Entry] = []

    def add(self, new: Sequence[Entry]) -> None:
        if len(new) == 1:
            place = self._place(new[0])
            self.entries.insert(place, new[0])
            self.costs.insert(place, new[0].cost)
            return
        self.entries.extend(new)
        self._sort()

    def take(self, seed: Entry, limits: BatchLimits) -> list[Entry]:
        """Removes and returns the batch of `seed`."""
        place = self._place(seed)
        first, last = pick(self.costs, place, limits)
        taken = self.entries[first:last]
        del self.entries[first:last], self.costs[first:last]
        return taken

    def beside(self, width: int, rows: int, padding: int) -> list[Entry]:
        """Removes and returns the longest items up to `width`: at most `rows` of them, which add at most
        `padding` slots of padding in all."""
        last = first = bisect.bisect_right(self.costs, width)
        while first and last - first < rows and (short := width - self.costs[first - 1]) <= padding:
            padding -= short
            first -= 1
        taken = self.entries[first:last]
        del self.entries[first:last], self.costs[first:last]
        return taken

    def drop(self, gone: set[int]) -> None:
        """Removes the items of the calls with these ids (`id(call)`)."""
        self.entries = [entry for entry in self.entries if id(entry.call) not in gone]
        self._sort()

    def _place(self, seed: Entry) -> int:
        return bisect.bisect_left(self.entries, seed.order, key=lambda entry: entry.order)

    def _sort(self) -> None:
        # The list is two sorted runs, which timsort merges in one pass.
        self.entries.sort(key=_ORDER)
        self.costs = [entry.cost for entry in self.entries]
