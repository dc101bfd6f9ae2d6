"""Calls whose items begin with the same tokens: those are computed once, and the rest of each behind them.

A prefix is an item like any other, whose result is its keys and values. It is computed for a call that
repeats it, kept (prefix_cache.py) and used by every later call. Items wait for it in the worker, so they
count as queued, and stop with their call. Where a prefix fails, they are computed whole.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ..artifact.manifest import PRESENT
from ..errors import PoolrtError
from ..inputs.items import Item, Prefix
from .prefix_cache import LEAST, Ids, PrefixCache, beginning
from .queue import Answer, Ticket
from .worker import Worker

WORTH = 64
"""Tokens that a new prefix must save, in the call that computes it: four launches, since the call waits."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a call is computed once."""

    prefix: Prefix
    cached: int
    """Its tokens that were computed before this call."""
    behind: Ticket | None = None
    """Done when the prefix is computed, or has failed; None: it is there."""
    begins: tuple[str, Ids, Prefix | None] | None = None
    """Salt and tokens of a prefix that nobody computes yet, and the part of it that is known."""


class PrefixStage:
    """Plans the prefixes of a worker's calls. Safe to use from many threads.

    Args:
        outputs: graph outputs that are computed of the last token alone.
        most_bytes: of the prefixes that are kept.
        most_tokens: of a prefix, for an engine. Its prefixes are multiples of LEAST tokens, since it prepares
            a graph for each length. None: any.
        worth: tokens that a new prefix must save in the call that computes it.
    """

    def __init__(
        self,
        worker: Worker,
        outputs: Collection[str],
        most_bytes: int,
        *,
        most_tokens: int | None = None,
        worth: int = WORTH,
    ) -> None:
        self.worker = worker
        self.cache = PrefixCache(most_bytes)
        self.queries = self.hits = 0
        """Tokens of the items that could have a prefix, and how many of them were not computed."""
        self._outputs = frozenset(outputs)
        self._most_tokens, self._worth = most_tokens, worth
        self._flying: dict[tuple[str, bytes], tuple[Prefix, Ticket]] = {}
        """Salt and tokens -> a prefix that is being computed, or about to be."""
        self._lock = threading.Lock()

    def submit(
        self,
        items: Sequence[Item],
        *outputs: str,
        deadline_s: float | None = None,
        priority: int = 0,
        salt: str = "",
    ) -> Ticket:
        """Queues the items of one call as `Worker.submit` does, behind the longest prefix that is worth
        it."""
        usable = bool(items) and self._outputs.issuperset(outputs) and all(map(_is_plain, items))
        plan = self._planned(items, salt) if usable else None
        if plan is not None:
            for index, item in enumerate(items):
                item.prefix = plan.prefix
                item.cached = plan.prefix.tokens if index else plan.cached
        behind = None if plan is None else plan.behind
        begun = False
        try:
            ticket = self.worker.submit(
                items, *outputs, deadline_s=deadline_s, priority=priority, salt=salt, behind=behind
            )
            # The prefix comes second, since the queue admits or refuses the call as a whole. Answers that
            # were kept need none.
            if plan is not None and plan.begins is not None and not ticket.done():
                begun = self._begin(plan, priority)
        finally:
            if plan is not None and plan.begins is not None and not begun:
                self._end(plan, None)
        if usable:
            with self._lock:
                self.queries += sum(len(item.ids) for item in items)
                self.hits += sum(item.cached for item in items)
        return ticket

    def _planned(self, items: Sequence[Item], salt: str) -> _Plan | None:
        """The prefix of a call; None where it has none."""
        different = {tuple(item.ids) for item in items}
        ids = beginning([item.ids for item in items])
        # Where a text alone ends to be like another says nothing of the next text.
        step = 1 if len(different) > 1 else LEAST
        if self._most_tokens is not None:
            ids, step = ids[: min(len(ids), self._most_tokens) // LEAST * LEAST], LEAST
        if len(ids) < LEAST:
            return None
        known = self.cache.longest(ids, salt, step=step)
        cached = 0 if known is None else known.tokens
        left = len(ids) - cached
        if left < LEAST or left * (len(different) - 1) < self._worth:
            return None if known is None else _Plan(known, cached)
        key = salt, ids.tobytes()
        with self._lock:
            if (flight := self._flying.get(key)) is not None:
                return _Plan(flight[0], len(ids), flight[1])
            self._flying[key] = prefix, done = Prefix(len(ids)), Ticket()
        return _Plan(prefix, cached, done, (salt, ids, known))

    def _begin(self, plan: _Plan, priority: int) -> bool:
        """Queues a prefix, behind the part of it that is known. Returns False where the worker is closed."""
        assert plan.begins is not None, "another call has begun it"
        _, ids, known = plan.begins
        item = Item(ids.tolist(), prefix=known, returns_past=True)
        try:
            computed = self.worker.submit([item], PRESENT, priority=priority, admitted=True)
        except PoolrtError:
            return False
        computed.add_done_callback(lambda done: self._end(plan, done))
        return True

    def _end(self, plan: _Plan, computed: Future[Answer] | None) -> None:
        """Keeps a prefix, and lets those go that wait for it. `computed` None: it was not begun."""
        assert plan.begins is not None, "another call ends it"
        assert plan.behind is not None, "nobody waits for what is there"
        salt, ids, known = plan.begins
        with self._lock:
            del self._flying[salt, ids.tobytes()]
        try:
            if computed is not None and not computed.cancelled() and computed.exception() is None:
                past = computed.result().rows[0]
                if known is not None and known.past is not None:
                    past = np.concatenate([known.past, past], axis=2)
                self.cache.put(ids, salt, np.ascontiguousarray(past), plan.prefix)
        finally:  # where there is no memory for it, calls go on without it
            plan.behind.set_result(Answer([], 0))


def _is_plain(item: Item) -> bool:
    """Whether the graph reads nothing of an item but its tokens."""
    columns = (item.type_ids, item.attention, item.kinds, item.features, item.positions, item.keep)
    return len(item.ids) > LEAST and not item.vision and all(column is None for column in columns)
