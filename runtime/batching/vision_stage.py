"""The first stage of a call with pictures: their features, by the worker of the vision graph.

A picture is computed once for all calls that wait for it at the same time, and its features are kept for
later ones. It leaves the queue when no call waits for it any more. Where a call has more time than the one
that queued the picture, the picture is queued again when the first one's deadline passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..errors import DeadlineExceeded, PoolrtError
from ..inputs.items import VisionItem
from .queue import Answer, Row, Ticket
from .row_cache import RowCache
from .worker import Worker

# In the place of a row that is not computed yet, or was handed over.
_NOTHING: Row = np.empty(0, np.float32)


@dataclass(slots=True, eq=False)
class Wait:
    """One call that waits for pictures. `ready` and `failed` are called in any thread."""

    ready: Callable[[int, list[Row], float], None]
    """(group, rows, seconds): all pictures of one group are computed: [rows, width] each, or [dim] where
    pictures are embedded apart. The seconds are those of the engine since the last call."""
    failed: Callable[[PoolrtError], None]
    """Called once; `ready` is not called afterwards."""
    deadline: float | None
    """On time.monotonic()'s clock; None: no end."""
    priority: int
    rows: list[list[Row]] = field(default_factory=list)
    """Of each group."""
    missing: list[int] = field(default_factory=list)
    """Pictures of each group that are not computed yet."""
    digests: set[bytes] = field(default_factory=set)
    """Of its pictures that are in flight."""
    busy_since: float | None = None
    """When its first picture began to be computed, or the time of the last `ready`."""
    over: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A place in a call that a picture belongs to."""

    wait: Wait
    group: int
    place: int
    item: VisionItem


@dataclass(slots=True, eq=False)
class _Flight:
    """A picture that is queued or running."""

    item: VisionItem
    priority: int
    waits: list[_Waiting]
    """The places in calls that wait for it."""
    ticket: Ticket | None = None

    @property
    def deadline(self) -> float | None:
        """The latest of its calls; None: no end."""
        deadlines = [place.wait.deadline for place in self.waits if place.wait.deadline is not None]
        return max(deadlines) if len(deadlines) == len(self.waits) else None


class VisionStage:
    """Computes pictures for the calls of one model. Safe to use from many threads.

    Args:
        output: name of the graph output that is computed.
        cache_bytes: most bytes of features that are kept; 0: none.
    """

    def __init__(self, worker: Worker, output: str, cache_bytes: int) -> None:
        self.worker = worker
        self.output = output
        self.cache = RowCache(cache_bytes)
        self.shared = 0
        """Pictures that were not computed because they were being computed already."""
        self._flights: dict[bytes, _Flight] = {}
        self._lock = threading.Lock()

    def unknown(self, items: Sequence[VisionItem]) -> list[VisionItem]:
        """Returns the items that would be computed now, each once."""
        different = {item.digest: item for item in items if item.features is None}
        return [
            item
            for digest, item in different.items()
            if digest not in self._flights and digest not in self.cache
        ]

    def start(self, wait: Wait, groups: Sequence[Sequence[VisionItem]]) -> None:
        """Queues the pictures of one call that are not known yet. It may be called again with more groups,
        which are counted on. Raises EngineError where the worker is closed."""
        replaced: list[Ticket] = []
        with self._lock:
            if wait.over:
                return
            first = len(wait.rows)
            flights = self._joined(wait, groups, replaced)
            try:
                self._launch(flights)
            except PoolrtError:
                self._leave(wait)  # the worker is closed, and fails what is queued by itself
                raise
            known = [group for group in range(first, len(wait.rows)) if not wait.missing[group]]
        self._watch(flights)
        for ticket in replaced:
            ticket.cancel()
        for group in known:
            self._hand_over(wait, group, 0.0)

    def cancel(self, wait: Wait) -> None:
        """Ends a wait: neither of its functions is called any more. Pictures that no other call waits for
        leave the queue."""
        with self._lock:
            tickets = self._leave(wait)
        for ticket in tickets:
            ticket.cancel()

    def _joined(
        self, wait: Wait, groups: Sequence[Sequence[VisionItem]], replaced: list[Ticket]
    ) -> list[_Flight]:
        """Gives a wait what is known, joins it to what is in flight, and returns new flights of the rest.
        Tickets of flights that more urgent ones replace are added to `replaced`."""
        new: dict[bytes, _Flight] = {}
        for group, items in enumerate(groups, len(wait.rows)):
            wait.rows.append([_NOTHING] * len(items))
            wait.missing.append(0)
            for place, item in enumerate(items):
                row = item.features if item.features is not None else self.cache.get(item.digest)
                if row is not None:
                    wait.rows[group][place] = item.features = row
                    item.arrays = {}
                    continue
                wait.missing[group] += 1
                wait.digests.add(item.digest)
                flight = new.get(item.digest) or self._flights.get(item.digest)
                if flight is None:
                    flight = new[item.digest] = _Flight(item, wait.priority, [])
                elif self.worker.policy == "priority" and wait.priority < flight.priority:
                    # Queued again, since a place in line cannot be changed.
                    if flight.ticket is not None:
                        replaced.append(flight.ticket)
                    flight = new[item.digest] = _Flight(item, wait.priority, flight.waits)
                else:
                    self.shared += 1
                    item.arrays = flight.item.arrays  # the same pixels once
                flight.waits.append(_Waiting(wait, group, place, item))
        return list(new.values())

    def _launch(self, flights: Sequence[_Flight]) -> None:
        """Queues pictures, under the lock. Raises EngineError."""
        kinds: dict[tuple[float | None, int], list[_Flight]] = {}
        for flight in flights:
            kinds.setdefault((flight.deadline, flight.priority), []).append(flight)
        for (deadline, priority), several in kinds.items():
            left = None if deadline is None else deadline - time.monotonic()
            items = [flight.item for flight in several]
            tickets = self.worker.submit_apart(items, self.output, deadline_s=left, priority=priority)
            for flight, ticket in zip(several, tickets, strict=True):
                flight.ticket = ticket
                self._flights[flight.item.digest] = flight

    def _watch(self, flights: Sequence[_Flight]) -> None:
        # Outside the lock, because a ticket that is done already calls back at once.
        for flight in flights:
            if flight.ticket is not None:
                flight.ticket.add_done_callback(partial(self._landed, flight))

    def _landed(self, flight: _Flight, ticket: Future[Answer]) -> None:
        """The worker is done with a picture."""
        if ticket.cancelled():  # nobody waited for it, or a more urgent flight has its waits
            return
        error = ticket.exception()
        if isinstance(error, PoolrtError):
            self._failed(flight, error)
            return
        answer = ticket.result()
        row, begun = answer.rows[0], time.monotonic() - answer.engine_s
        self.cache.put(flight.item.digest, row)
        complete: list[tuple[Wait, int, float]] = []
        flight.item.arrays.clear()  # the pixels, of all items that share them
        with self._lock:
            for waiting in self._waits_of(flight):
                wait, group = waiting.wait, waiting.group
                waiting.item.features = row
                if wait.over:
                    continue
                wait.rows[group][waiting.place] = row
                wait.missing[group] -= 1
                since = begun if wait.busy_since is None else wait.busy_since
                wait.busy_since = since
                if not wait.missing[group]:
                    wait.busy_since = time.monotonic()
                    complete.append((wait, group, wait.busy_since - since))
        for wait, group, seconds in complete:
            self._hand_over(wait, group, seconds)

    def _hand_over(self, wait: Wait, group: int, seconds: float) -> None:
        rows, wait.rows[group] = wait.rows[group], []
        wait.ready(group, rows, seconds)

    def _failed(self, flight: _Flight, error: PoolrtError) -> None:
        """Fails the calls that wait for a picture, but those that have more time than the worker had."""
        again: list[_Flight] = []
        unused: list[Ticket] = []
        with self._lock:
            waits = [waiting for waiting in self._waits_of(flight) if not waiting.wait.over]
            if isinstance(error, DeadlineExceeded):
                now = time.monotonic()
                longer = [
                    waiting
                    for waiting in waits
                    if waiting.wait.deadline is None or waiting.wait.deadline > now
                ]
                if longer:
                    priority = min(waiting.wait.priority for waiting in longer)
                    again = [_Flight(flight.item, priority, longer)]
                    try:
                        self._launch(again)
                        waits = [waiting for waiting in waits if waiting not in longer]
                    except PoolrtError as refusal:
                        error, again = refusal, []
            failed = list({id(waiting.wait): waiting.wait for waiting in waits}.values())
            functions = [wait.failed for wait in failed]
            for wait in failed:
                unused += self._leave(wait)
        self._watch(again)
        for ticket in unused:
            ticket.cancel()
        for fail in functions:
            fail(error)

    def _waits_of(self, flight: _Flight) -> list[_Waiting]:
        """Ends a flight, under the lock, and returns who waited for it."""
        if self._flights.get(flight.item.digest) is flight:
            del self._flights[flight.item.digest]
        waits, flight.waits[:] = list(flight.waits), []
        return waits

    def _leave(self, wait: Wait) -> list[Ticket]:
        """Takes a wait out of every flight, under the lock. Returns the tickets of flights that nobody waits
        for any more."""
        wait.over = True
        wait.ready, wait.failed = _ignored, _ignored  # else a call that is over would be held in a circle
        unused: list[Ticket] = []
        for digest in wait.digests:
            flight = self._flights.get(digest)
            if flight is None:
                continue
            flight.waits[:] = [waiting for waiting in flight.waits if waiting.wait is not wait]
            if not flight.waits:
                del self._flights[digest]
                if flight.ticket is not None:
                    unused.append(flight.ticket)
        return unused


def _ignored(*_: object) -> None:
    pass
