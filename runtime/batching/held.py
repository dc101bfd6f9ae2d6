"""Calls whose items come one by one, when they are prepared and their pictures are computed, or together when
their prefix is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .queue import Call, Entry


class HeldCalls:
    """The calls of a worker that wait for items, and what is admitted of them and not queued yet. Every call
    needs the worker's lock, but for `cost`."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        """By `id`."""

    def __bool__(self) -> bool:
        return bool(self.calls)

    def __contains__(self, call: Call) -> bool:
        return id(call) in self.calls

    @property
    def items(self) -> int:
        """How many items are held."""
        return sum(len(call.held) for call in self.calls.values())

    @property
    def cost(self) -> int:
        """Of the held items and their pictures. Read without the lock it may be a moment old."""
        return sum(sum(list(call.held_cost.values())) for call in list(self.calls.values()))

    def open(self, call: Call) -> None:
        """Waits for all items of a call."""
        self.calls[id(call)] = call

    def wait(self, call: Call, entries: Sequence[Entry]) -> None:
        """Holds all items of a call, until `take`."""
        self.calls[id(call)] = call
        call.held = {entry.index: entry for entry in entries}
        call.held_cost = {entry.index: entry.cost for entry in entries}

    def take(self, call: Call) -> list[Entry]:
        """The items of a call of `wait` are held no longer. Returns them; none where the call is over."""
        entries = list(call.held.values()) if call in self else []
        self.drop({id(call): call})
        return entries

    def admit(self, call: Call, entries: Mapping[int, Entry], costs: Mapping[int, int]) -> None:
        """Holds items of an open call.

        Args:
            costs: index of an item -> its cost and that of its pictures.
        """
        call.coming -= len(entries)
        call.held |= entries
        call.held_cost |= costs
        call.answer.tokens += sum(entry.cost for entry in entries.values())

    def release(self, call: Call, index: int, before_s: float) -> Entry | None:
        """An item is held no longer, and its call is not open after the last one. Returns None where the call
        is over.

        Args:
            before_s: seconds that were spent on what the item waited for.
        """
        entry = call.held.pop(index, None)
        if entry is None:
            return None
        del call.held_cost[index]
        call.answer.engine_s += before_s
        if call.started is None:
            call.submitted += before_s  # no time in the queue
        if not call.held and not call.coming:
            del self.calls[id(call)]
        return entry

    def drop(self, calls: Mapping[int, Call]) -> bool:
        """Lets go of what is held of these calls. Returns whether one of them was open."""
        opened = [call for key, call in calls.items() if self.calls.pop(key, None) is not None]
        for call in opened:
            call.held, call.held_cost = {}, {}
        return bool(opened)
