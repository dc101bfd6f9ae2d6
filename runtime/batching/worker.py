"""The threads of a session that merge the items of all callers into batches.

While some batches run, the next gathers (returning.py says when a lane waits). Each lane of the session is a
thread that takes a batch, runs it and sets the results of its calls. Free lanes share what is queued. A call
that fails, is cancelled or comes too late affects no other call.

This file is long because submission, lanes and cancellation share one lock and are read together.
"""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, InvalidStateError
from dataclasses import replace

import numpy as np

from ..engines.feed import Feed
from ..engines.table import Session
from ..errors import DeadlineExceeded, EngineError, Overload, PoolrtError
from ..inputs.items import Item, VisionItem
from .held import HeldCalls
from .line import Line, Policy
from .plan import WORTH_LAUNCHES, BatchLimits
from .queue import LATE, Answer, Call, Counters, Entry, Row, Ticket
from .returning import Returning
from .row_cache import RowCache

SMALL_QUEUE = 4096
"""Most items of a queue that a cancelled call leaves within a millisecond."""
# In the place of a row that is not computed yet.
_NOTHING: Row = np.empty(0, np.float32)


class Worker:
    """Owns a session. `submit` returns a future at once: wait for it, hand it to `asyncio.wrap_future`, or
    cancel it."""

    def __init__(
        self,
        session: Session,
        *,
        feed: Feed,
        limits: BatchLimits,
        max_queued_tokens: int | None = None,
        policy: Policy = "fcfs",
        name: str = "model",
        kept_bytes: int = 0,
    ) -> None:
        self.session = session
        self.rows = RowCache(kept_bytes)
        """Rows of the outputs of items that were computed before."""
        self.limits = limits
        self.max_queued_tokens = max_queued_tokens
        self.policy: Policy = policy
        self._feed = feed
        self._counters = Counters()
        self._lock = threading.Condition()
        self._line = Line(policy, self._counters)
        self._held = HeldCalls()
        self._gone: deque[Call] = deque()
        """Cancelled calls whose items are still queued."""
        self._speed = 0.0
        """Tokens per second of the last batches, smoothed; 0: nothing measured yet."""
        self._closing = False
        self._calls = 0
        """That were queued so far."""
        self._idle = 0
        """Lanes that wait for work."""
        self._running: dict[int, float] = {}
        """Thread id -> start of its batch (time.monotonic)."""
        self._threads = [
            threading.Thread(target=self._serve, name=f"poolrt-{name}-{lane}", daemon=True)
            for lane in range(session.lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        items: Sequence[Item] | Sequence[VisionItem],
        *outputs: str,
        deadline_s: float | None = None,
        priority: int = 0,
        salt: str = "",
        behind: Ticket | None = None,
        admitted: bool = False,
    ) -> Ticket:
        """Queues the items of one call. One pass computes all these graph outputs. `priority` counts under
        the policy of that name only. Equal items are computed once, and not at all where the rows of an equal
        one, of a call with the same `salt`, are kept.

        Args:
            behind: of the prefix of all items; they are queued when it is done, whole where it failed.
            admitted: whether they are a part of a call that the queue has admitted.

        The future raises DeadlineExceeded, CancelledError, or EngineError where an item fails even alone in
        its batch. `submit` itself raises Overload where the queue is full; an empty queue admits any call.
        """
        call, entries = self._call(items, outputs, deadline_s, priority, salt)
        if not entries:
            call.future.set_result(call.answer)
            return call.future
        # Dearest first, so that the pool shrinks from one end and the rest stays close in cost.
        entries.sort(key=lambda entry: -entry.cost)
        with self._lock:
            self._admit(sum(entry.cost for entry in entries), always=admitted)
            self._line.watch(call)
            if behind is None:
                call.entries = entries
                self._enqueue(entries)
            else:
                self._held.wait(call, entries)
        self._watch_cancelling(call)
        if behind is not None:
            behind.add_done_callback(lambda _: self._queue_held(call))
        return call.future

    def _queue_held(self, call: Call) -> None:
        """Queues the items that waited for their prefix."""
        with self._lock:
            entries = self._held.take(call)
            if not entries:
                return
            for entry in entries:
                item = entry.item
                if isinstance(item, Item) and item.prefix is not None and item.prefix.past is None:
                    item.prefix, item.cached = None, 0
                entry.cost = item.cost
            call.entries = entries
            self._enqueue(entries)

    def submit_apart(
        self, items: Sequence[VisionItem], output: str, *, deadline_s: float | None = None, priority: int = 0
    ) -> list[Ticket]:
        """Queues items that stand in line as those of one call, with a future for each. Raises as `submit`
        does."""
        calls = [self._call([item], (output,), deadline_s, priority) for item in items]
        place = 0.0
        with self._lock:
            self._admit(sum(entry.cost for _, entries in calls for entry in entries))
            for call, entries in calls:
                self._line.watch(call)
                call.entries, call.place = entries, place
                self._enqueue(entries)
                place = call.place
        for call, _ in calls:
            self._watch_cancelling(call)
        return [call.future for call, _ in calls]

    # Calls whose items come one by one, when they are prepared and their pictures are computed

    def open(
        self,
        count: int,
        *outputs: str,
        deadline_s: float | None = None,
        priority: int = 0,
        computed: Callable[[int], None] | None = None,
    ) -> Call:
        """Begins a call of `count` items: `hold` comes for each of them, then `queue` or `settle`. `fail`
        ends it before. A worker that closes waits for it. Raises EngineError where the worker is closed.

        Args:
            computed: called in the worker's thread with the index of each item that was computed.
        """
        call, _ = self._call([], outputs, deadline_s, priority)
        rows, *others = ([_NOTHING] * count for _ in outputs)
        call.answer.rows, call.answer.others = rows, tuple(others)
        call.remaining = call.coming = count
        call.computed = computed
        with self._lock:
            self._admit(0)
            self._line.watch(call)
            self._held.open(call)
        self._watch_cancelling(call)
        return call

    def hold(self, call: Call, items: Mapping[int, Item], before: Mapping[int, int]) -> bool:
        """Admits items of an open call, which count as queued from now on. Returns False where the call is
        over. Raises Overload where the queue is full and these are the call's first items.

        Args:
            before: index of an item -> the cost of what is computed before it.
        """
        entries = {
            index: Entry(call, index, item, item.cost, call.outputs, call.priority)
            for index, item in items.items()
        }
        costs = {index: entry.cost + before.get(index, 0) for index, entry in entries.items()}
        with self._lock:
            if call not in self._held:
                return False
            if call.coming == call.remaining == len(call.answer.rows):
                self._admit(sum(costs.values()))
            self._held.admit(call, entries, costs)
            return True

    def queue(self, call: Call, index: int, *, before_s: float = 0.0) -> None:
        """Queues a held item. Nothing happens where the call is over.

        Args:
            before_s: seconds that were spent on what it waited for, for the call's `engine_s`.
        """
        with self._lock:
            entry = self._let_go(call, index, before_s)
            if entry is not None:
                call.entries.append(entry)
                self._enqueue([entry])

    def settle(self, call: Call, index: int, row: Row, *, before_s: float = 0.0) -> None:
        """Gives a held item its row without computing it, where the call has one output."""
        with self._lock:
            if self._let_go(call, index, before_s) is None:
                return
            call.answer.rows[index] = row
            call.remaining -= 1
            call.future.done_items += 1
            done = not call.remaining
        if (computed := call.computed) is not None:
            computed(index)
        if done:
            _answer(call)

    def fail(self, call: Call, error: PoolrtError) -> None:
        """Fails an open call, and gives up what is queued of it."""
        with self._lock:
            self._leave({id(call): call})
        _fail(call, error, error.__cause__)

    def _let_go(self, call: Call, index: int, before_s: float) -> Entry | None:
        """An item is held no longer. Returns None where the call is over."""
        entry = self._held.release(call, index, before_s)
        if entry is not None and call not in self._held:
            self._lock.notify_all()  # the lanes of a closed worker wait for the last one
        return entry

    # What all kinds of calls share

    def _call(
        self,
        items: Sequence[Item] | Sequence[VisionItem],
        outputs: tuple[str, ...],
        deadline_s: float | None,
        priority: int,
        salt: str = "",
    ) -> tuple[Call, list[Entry]]:
        """A call, and the entries that compute its items."""
        now = time.monotonic()
        rows, *others = ([_NOTHING] * len(items) for _ in outputs)
        answer = Answer(rows, sum(item.cost for item in items), tuple(others))
        call = Call(Ticket(), answer, len(items), now, None if deadline_s is None else now + deadline_s)
        call.outputs, call.salt = outputs, salt
        call.priority = level = priority if self.policy == "priority" else 0
        return call, self._entries(call, items, level)

    def _entries(
        self, call: Call, items: Sequence[Item] | Sequence[VisionItem], priority: int
    ) -> list[Entry]:
        """An entry for each item that no other of the call equals, and that is not kept."""
        entries: list[Entry] = []
        firsts: dict[bytes, Entry] = {}
        kept = 0
        for index, item in enumerate(items):
            key = item.key
            if key is not None:
                if (first := firsts.get(key)) is not None:
                    first.twins.append(index)
                    continue
                if self._kept(call, index, key):
                    kept += 1
                    continue
            entry = Entry(call, index, item, item.cost, call.outputs, priority, key=key)
            entries.append(entry)
            if key is not None:
                firsts[key] = entry
        if kept:
            with self._lock:
                self._counters.cached_items += kept
        return entries

    def _kept(self, call: Call, index: int, key: bytes) -> bool:
        """Whether the rows of an equal item are kept. If so, the item has them."""
        if not self.rows.most_bytes:
            return False
        rows = [self.rows.get(_name(key, output, call.salt)) for output in call.outputs]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            return False
        for row, column in zip(known, (call.answer.rows, *call.answer.others), strict=True):
            column[index] = row.copy()  # the caller may change it
        call.remaining -= 1
        call.future.done_items += 1
        return True

    def _enqueue(self, entries: Sequence[Entry]) -> None:
        """Queues items of one call, under the lock."""
        self._line.add(entries)
        self._calls += 1
        self._lock.notify(len(entries))

    def _watch_cancelling(self, call: Call) -> None:
        # A weak reference: a call held by its own future would be a cycle, and keep its rows until the
        # garbage collector runs.
        queued = weakref.ref(call)
        call.future.add_done_callback(lambda done: self._cancelled(queued()) if done.cancelled() else None)

    def _queued_tokens(self) -> int:
        """The cost of what is queued or held. Read without the lock too: the number may be a moment old."""
        return self._counters.queued_tokens + self._held.cost

    def _admit(self, cost: int, *, always: bool = False) -> None:
        if self._closing:
            raise EngineError("the model was closed")
        queued, most = self._queued_tokens(), self.max_queued_tokens
        if not always and most is not None and queued and queued + cost > most:
            raise self._refusal(queued)

    def _refusal(self, queued: int) -> Overload:
        self._counters.refused += 1
        wait = min(max(queued / self._speed, 1.0), 60.0) if self._speed else 1.0
        text = (
            f"{queued} tokens are queued and {self.max_queued_tokens} are admitted; try again in {wait:.0f} s"
        )
        return Overload(text, retry_after_s=wait)

    def is_full(self, coming_tokens: int = 0) -> bool:
        """Whether every call would be refused, whatever its size. `coming_tokens` are on their way to the
        queue."""
        return (
            self.max_queued_tokens is not None
            and self._queued_tokens() + coming_tokens >= self.max_queued_tokens
        )

    def refusal(self, coming_tokens: int = 0) -> Overload:
        """The error for a call to a full queue, which is counted as refused."""
        with self._lock:
            return self._refusal(self._queued_tokens() + coming_tokens)

    def counters(self) -> Counters:
        with self._lock:
            return replace(
                self._counters,
                queued_items=self._counters.queued_items + self._held.items,
                queued_tokens=self._queued_tokens(),
            )

    def stalled_s(self) -> float:
        """Seconds that the oldest running batch has taken so far; 0 when idle. A large number means that the
        engine hangs."""
        # Read without the lock, which a call of very many items holds for long: a health check must not wait.
        begun = list(self._running.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def close(self, timeout_s: float | None = None) -> None:
        """Refuses new calls, computes what is queued for up to `timeout_s` (None: all of it), fails the rest
        and closes the session."""
        self.refuse()
        if threading.current_thread() in self._threads:
            return  # called by a callback of this worker's own; the threads end with the queue
        if not self._ended(timeout_s):
            with self._lock:
                calls = {id(entry.call): entry.call for entry in self._line.queued} | self._held.calls
                self._leave(calls)
            for call in calls.values():
                _fail(call, EngineError("the model was closed before this was computed"))
            if not self._ended(timeout_s):
                return
        self.session.close()

    def refuse(self) -> None:
        """Refuses new calls from now on."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()

    def _ended(self, timeout_s: float | None) -> bool:
        """Waits up to `timeout_s` for all threads together; returns whether they ended."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The lanes

    def _serve(self) -> None:
        lane = threading.get_ident()
        returning = Returning()
        while True:
            with self._lock:
                self._idle += 1
                while not self._line.queued and (self._held or not self._closing):
                    self._lock.wait()
                self._await(returning)
                now = time.monotonic()
                late = self._line.late(now)
                self._leave(late)
                self._counters.expired += len(late)
                # Few enough to leave work for every free lane.
                limits = self.limits.shared(self._counters.queued_tokens, self._idle)
                batch = self._line.take(limits, now)
                self._idle -= 1
                if not batch and not self._line.queued and self._closing and not self._held:
                    return
                alone = not self._running and not self._line.queued
                if batch:
                    self._running[lane] = now
            # Outside the lock, since a future's callbacks run the caller's code.
            for call in late.values():
                _fail(call, DeadlineExceeded(LATE))
            if batch:
                self._run(batch, returning, alone=alone)
            # Otherwise a lane that waits for work would keep the rows of the last call in memory.
            batch, late = [], {}

    def _await(self, returning: Returning) -> None:
        """Waits, under the lock, for callers who were just answered, while all other lanes compute and little
        is queued."""
        enough = WORTH_LAUNCHES * self.limits.launch_tokens
        while (
            self._running
            and self._idle == 1
            and not self._closing
            and self._counters.queued_tokens < enough
            and (patience_s := returning.patience_s(self._calls, time.monotonic()))
        ):
            self._lock.wait(patience_s)

    def _leave(self, calls: dict[int, Call]) -> None:
        """Removes from the queue all items of these calls, and lets go of those that are held."""
        if self._held.drop(calls):
            self._lock.notify_all()
        self._line.drop(calls)

    def _cancelled(self, call: Call | None) -> None:
        if call is None:  # none of its items is queued or held any more
            return
        self._gone.append(call)
        if len(self._line.queued) <= SMALL_QUEUE:
            self._drop_gone()
        else:
            # In a thread of its own: the caller is often an event loop, which must not wait for a walk
            # through a long queue.
            threading.Thread(target=self._drop_gone, name="poolrt-cancelled", daemon=True).start()

    def _drop_gone(self) -> None:
        with self._lock:
            calls: dict[int, Call] = {}
            while self._gone:
                call = self._gone.popleft()
                calls[id(call)] = call
            self._counters.cancelled += len(calls)
            self._leave(calls)

    def _run(self, batch: list[Entry], returning: Returning, *, alone: bool) -> None:
        places: dict[object, int] = {}
        """Key of an entry -> the row that is computed for it. An entry without a key has a row of its own."""
        rows_of = [places.setdefault(entry.key or id(entry), len(places)) for entry in batch]
        items = [batch[rows_of.index(row)].item for row in range(len(places))]
        cost = sum(item.cost for item in items)
        rows, width = self.limits.shape(len(items), max(map(self._feed.length, items)))
        begun = time.monotonic()
        try:
            arrays = self.session.run(
                self._feed.arrays(items, rows=rows, width=width), batch[0].outputs, alone=alone
            )
            assert all(len(array) == rows for array in arrays), (
                f"the engine answered {[len(array) for array in arrays]} rows of {rows}"
            )
        except Exception as error:
            self._split(batch, returning, error)
            return
        spent = time.monotonic() - begun
        for place, entry in zip(rows_of, batch, strict=True):
            columns = (entry.call.answer.rows, *entry.call.answer.others)
            for array, output, column in zip(arrays, entry.outputs, columns, strict=True):
                row = _own(array[place], entry.item)
                for index in entry.indices:
                    # A copy, since a view would keep the whole batch in memory.
                    column[index] = row.copy()
                if entry.key is not None and self.rows.most_bytes:
                    self.rows.put(_name(entry.key, output, entry.call.salt), row.copy())
            if (computed := entry.call.computed) is not None:
                computed(entry.index)
        calls: dict[int, Call] = {}
        with self._lock:
            self._left(len(batch))
            counters = self._counters
            prefixes = sum(isinstance(item, Item) and item.returns_past for item in items)
            count = sum(len(entry.indices) for entry in batch)
            counters.items += count - prefixes
            counters.shared_items += count - len(items)
            counters.tokens += cost
            counters.slots += rows * width
            counters.batches += 1
            counters.engine_s += spent
            if spent:  # 0 where a batch ends within one tick of a coarse clock
                # The speed of all lanes together, as each of them has its share of the processor.
                speed = cost / spent * len(self._threads)
                self._speed = speed if not self._speed else 0.8 * self._speed + 0.2 * speed
            for entry in batch:
                call = entry.call
                call.answer.slots += width * len(entry.indices)
                call.remaining -= len(entry.indices)
                call.future.done_items += len(entry.indices)
                calls[id(call)] = call
            for call in calls.values():
                call.answer.engine_s += spent
                if not call.remaining:
                    call.entries = []
            done = [call for call in calls.values() if not call.remaining]
            launch = self.limits.launch_tokens
            returning.answered(len(done), self._calls, begun + spent, spent * launch / (cost + launch))
        for call in done:
            _answer(call)

    def _left(self, items: int) -> None:
        """Counts these items of this thread's batch as no longer running."""
        self._counters.running_items -= items
        self._running.pop(threading.get_ident(), None)

    def _split(self, batch: list[Entry], returning: Returning, error: Exception) -> None:
        """Tries a failed batch again in halves, down to single items: there may be memory for fewer, or a
        single item may be the cause."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                with self._lock:
                    self._running[threading.get_ident()] = time.monotonic()
                self._run(half, returning, alone=False)
            return
        call = batch[0].call
        with self._lock:
            self._counters.failed += 1
            self._left(1)
            self._leave({id(call): call})
        _fail(
            call,
            error
            if isinstance(error, PoolrtError)
            else EngineError(f"the engine failed ({type(error).__name__})"),
            error,
        )


def _name(key: bytes, output: str, salt: str) -> bytes:
    """The name under which a row is kept. Where a caller gave a salt, only those who know it find the row."""
    return hashlib.blake2b(b"\0".join((key, output.encode(), salt.encode())), digest_size=32).digest()


def _own(array: Row, item: Item | VisionItem) -> Row:
    """An item's part of a row of an output, without padding: [dim], [tokens, dim], or keys and values
    [2 x layers, heads, tokens, width]."""
    if array.ndim == 4:
        return array[:, :, : item.cost]
    return array[: item.rows] if array.ndim == 2 else array


def _answer(call: Call) -> None:
    try:
        call.future.set_result(call.answer)
    except InvalidStateError:  # cancelled, or already failed
        return


def _fail(call: Call, error: PoolrtError, cause: BaseException | None = None) -> None:
    error.__cause__ = cause if cause is not error else None
    try:
        call.future.set_exception(error)
    except (InvalidStateError, CancelledError):
        return
