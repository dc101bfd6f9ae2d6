"""The line of all callers: which of the queued items run next.

Callers share fairly. An item's place in line is its caller's share of the work so far (self-clocked fair
queueing, Golestani 1994), so a short request runs between the batches of a long one. Under the policy
`priority` the line is sorted by priority, then by arrival.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from .plan import BatchLimits
from .queue import Call, Counters, Entry, Kind, Pool

Policy = Literal["fcfs", "priority"]


class Line:
    """The queued items of a worker. Every call needs the worker's lock.

    Args:
        counters: of the worker; what is queued and running is counted there.
    """

    def __init__(self, policy: Policy, counters: Counters) -> None:
        self.policy: Policy = policy
        self.queued: set[Entry] = set()
        self._counters = counters
        self._pools: dict[Kind, Pool] = {}
        self._places: list[tuple[int, float, int, Entry]] = []
        """Heap by priority, share of work and arrival. Entries that are no longer queued are skipped."""
        self._deadlines: list[tuple[float, int, Call]] = []
        self._now = 0.0
        """Virtual time: the place in line of the last item that was taken."""
        self._arrivals = itertools.count()

    def add(self, entries: Sequence[Entry]) -> None:
        """Queues items of one call."""
        call, cost = entries[0].call, 0
        place = max(self._now, call.place)
        for entry in entries:
            arrival = next(self._arrivals)
            entry.order = (entry.cost, arrival)
            cost += entry.cost
            place += 0 if self.policy == "priority" else entry.cost
            heapq.heappush(self._places, (entry.priority, place, arrival, entry))
        call.place = place
        self._pools.setdefault(entries[0].kind, Pool()).add(entries)
        self.queued.update(entries)
        self._counters.queued_items += len(entries)
        self._counters.queued_tokens += cost

    def watch(self, call: Call) -> None:
        """Remembers the deadline of a call that has one."""
        if call.deadline is not None:
            heapq.heappush(self._deadlines, (call.deadline, next(self._arrivals), call))

    def late(self, now: float) -> dict[int, Call]:
        """Removes and returns, by `id`, the calls whose deadline is over at `now` (time.monotonic) and that
        have no result."""
        late: dict[int, Call] = {}
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].future.done()):
            call = heapq.heappop(self._deadlines)[2]
            if not call.future.done():
                late[id(call)] = call
        return late

    def take(self, limits: BatchLimits, now: float) -> list[Entry]:
        """Removes and returns the next batch: the first item in line and its neighbours in cost. It counts as
        running from `now` on (time.monotonic)."""
        while self._places:
            _, place, _, seed = heapq.heappop(self._places)
            if seed not in self.queued:
                continue
            self._now = max(self._now, place)
            if (prefix := seed.prefix) is not None:
                limits = replace(limits, prefix=prefix.tokens)
            batch = self._pools[seed.kind].take(seed, limits)
            if prefix is not None:
                self._forget([seed.kind])
            if self.policy == "priority":
                batch += self._less_urgent(batch, limits)
            self.queued.difference_update(batch)
            if not self.queued:
                self._places.clear()  # items that were taken as neighbours are still in it
            for entry in batch:
                call = entry.call
                if call.started is None:
                    call.started = now
                    call.answer.queue_s = now - call.submitted
                self._counters.queue_s += now - call.submitted
            self._counters.queued_items -= len(batch)
            self._counters.queued_tokens -= sum(entry.cost for entry in batch)
            self._counters.running_items += len(batch)
            return batch
        return []

    def _less_urgent(self, batch: Sequence[Entry], limits: BatchLimits) -> list[Entry]:
        """Items of other priorities that fit into a batch without widening it, the most urgent first."""
        width, outputs = max(entry.cost for entry in batch), batch[0].outputs
        rows = limits.rows(width) - len(batch)
        padding = limits.padding(width) - sum(width - entry.cost for entry in batch)
        taken: list[Entry] = []
        prefix = batch[0].kind[2]
        alike = [kind for kind in self._pools if (kind[0], kind[2]) == (outputs, prefix)]
        for kind in sorted(alike, key=lambda kind: kind[1]):
            more = self._pools[kind].beside(width, rows - len(taken), padding)
            padding -= sum(width - entry.cost for entry in more)
            taken += more
            self._forget([kind])  # every call may have a priority of its own
        return taken

    def _forget(self, kinds: Iterable[Kind]) -> None:
        """Removes pools that are empty."""
        for kind in kinds:
            if kind in self._pools and not self._pools[kind].entries:
                del self._pools[kind]

    def drop(self, calls: Mapping[int, Call]) -> None:
        """Removes all items of these calls, by `id`."""
        gone = [entry for call in calls.values() for entry in call.entries if entry in self.queued]
        if not gone:
            return
        self.queued.difference_update(gone)
        kinds = {entry.kind for entry in gone}
        for kind in kinds:
            self._pools[kind].drop(set(calls))
        self._forget(kinds)
        self._counters.queued_items -= len(gone)
        self._counters.queued_tokens -= sum(entry.cost for entry in gone)
        if len(self._places) > 2 * len(self.queued) + 1024:
            self._places = [place for place in self._places if place[-1] in self.queued]
            heapq.heapify(self._places)
