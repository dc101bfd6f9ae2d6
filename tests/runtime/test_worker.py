"""The worker with an engine made of numpy, so that a test can hold it, break it and see what it was given."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from poolrt.runtime.artifact.manifest import Profile, Tensor
from poolrt.runtime.batching import worker as worker_module
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.returning import MOST_S, Returning
from poolrt.runtime.batching.worker import Worker
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import DeadlineExceeded, EngineError, Overload
from poolrt.runtime.inputs.items import Item

LIMITS = BatchLimits(max_tokens=64, launch_tokens=8)
FEED = Feed(
    [Tensor(name=name, dtype="int64", axes=("batch", "tokens")) for name in ("input_ids", "attention_mask")],
    pad_id=0,
)
POISON = 666


class Sums:
    """`pooled`: sum of the attended ids; `tokens`: each id. Fails on POISON, waits for `gate`,
    refuses more than `most` rows."""

    backend = "numpy"
    lanes = 1
    profiles = ()

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.most = 1 << 30
        self.batches: list[tuple[int, int]] = []
        self.closed = False

    def run(self, inputs, outputs, *, alone=False):
        self.entered.set()
        assert self.gate.wait(10)
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        self.batches.append(ids.shape)
        if (ids == POISON).any() or len(ids) > self.most:
            raise EngineError("broken")
        values = (ids * attention).astype(np.float32)
        return [
            values.sum(axis=1, keepdims=True) if name == "pooled" else values[..., None] for name in outputs
        ]

    def close(self):
        self.closed = True


@pytest.fixture
def engine():
    return Sums()


@pytest.fixture
def worker(engine):
    made = Worker(engine, feed=FEED, limits=LIMITS)
    yield made
    engine.gate.set()
    made.close(10)


def item(*ids):
    return Item(ids=list(ids), prompt_tokens=len(ids))


class Dear(Item):
    """Few tokens and much work."""

    @property
    def cost(self) -> int:
        return 30


def hold(engine, worker):
    """Keeps the engine busy with one item until the gate opens."""
    engine.gate.clear()
    engine.entered.clear()
    busy = worker.submit([item(1)], "pooled")
    assert engine.entered.wait(10)
    return busy


def pooled(future):
    return [float(row[0]) for row in future.result(10).rows]


def test_rows_come_back_in_the_order_of_their_items(worker):
    items = [item(*range(1, length + 1)) for length in (3, 17, 1, 40, 2)]
    assert pooled(worker.submit(items, "pooled")) == [6.0, 153.0, 1.0, 820.0, 3.0]


def test_token_rows_carry_no_padding(worker):
    answer = worker.submit([item(5, 6, 7), item(8)], "tokens").result(10)
    assert [row[:, 0].tolist() for row in answer.rows] == [[5, 6, 7], [8]]


def test_several_outputs_come_from_one_pass(engine, worker):
    hold(engine, worker)
    both = [worker.submit([item(5, 6, 7), item(number)], "pooled", "tokens") for number in (8, 9)]
    alone = worker.submit([item(5, 6, 7)], "pooled")
    engine.gate.set()
    for future, number in zip(both, (8, 9), strict=True):
        answer = future.result(10)
        assert [row.tolist() for row in answer.rows] == [[18], [number]]
        assert [row[:, 0].tolist() for row in answer.others[0]] == [[5, 6, 7], [number]]
    assert pooled(alone) == [18.0]
    assert sorted(engine.batches) == [(1, 1), (1, 3), (3, 3)]


def test_what_gathers_while_a_batch_runs_is_merged(engine, worker):
    hold(engine, worker)
    futures = [worker.submit([item(number, 1)], "pooled") for number in range(10)]
    engine.gate.set()
    assert [pooled(future) for future in futures] == [[number + 1.0] for number in range(10)]
    assert engine.batches == [(1, 1), (10, 2)]


def test_the_queue_counts_what_items_cost_and_not_how_long_they_are(engine):
    worker = Worker(engine, feed=FEED, limits=LIMITS, max_queued_tokens=50)
    hold(engine, worker)
    dear = worker.submit([Dear(ids=[2, 3])], "pooled")
    with pytest.raises(Overload, match="30 tokens are queued and 50 are admitted"):
        worker.submit([Dear(ids=[4, 5])], "pooled")
    cheap = worker.submit([item(4, 5)], "pooled")
    assert worker.counters().queued_tokens == 32
    engine.gate.set()
    assert (pooled(dear), pooled(cheap)) == ([5.0], [9.0])
    assert engine.batches == [(1, 1), (1, 2), (1, 2)]  # one length, but no batch for both
    assert worker.counters().queued_tokens == 0
    worker.close(10)


def test_many_threads_get_their_own_answers(worker):
    generator = np.random.default_rng(0)
    calls = [  # of two tokens or more: no two are equal, which would be computed once
        [item(*generator.integers(1, 600, generator.integers(2, 30)).tolist()) for _ in range(5)]
        for _ in range(200)
    ]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda items: pooled(worker.submit(items, "pooled")), calls))
    assert found == [[float(sum(one.ids)) for one in items] for items in calls]
    assert len({tuple(one.ids) for items in calls for one in items}) == 1000
    counters = worker.counters()
    assert counters.items == 1000
    assert (counters.queued_items, counters.queued_tokens, counters.running_items) == (0, 0, 0)
    assert counters.slots >= counters.tokens == sum(len(one.ids) for items in calls for one in items)


def test_an_item_that_fails_fails_its_call_alone(engine, worker):
    hold(engine, worker)
    good = [worker.submit([item(number, 2)], "pooled") for number in range(5)]
    bad = worker.submit([item(POISON, 1), item(3, 3)], "pooled")
    engine.gate.set()
    assert [pooled(future) for future in good] == [[number + 2.0] for number in range(5)]
    with pytest.raises(EngineError, match="broken"):
        bad.result(10)
    assert worker.counters().failed == 1


def test_a_batch_too_large_for_the_engine_is_halved(engine, worker):
    engine.most = 2
    assert pooled(worker.submit([item(number) for number in range(1, 9)], "pooled")) == [
        float(number) for number in range(1, 9)
    ]
    assert [rows for rows, _ in engine.batches] == [8, 4, 2, 2, 4, 2, 2]


def test_a_cancelled_call_leaves_the_line_and_its_neighbours(engine, worker):
    hold(engine, worker)
    gone, kept = worker.submit([item(1, 1)] * 3, "pooled"), worker.submit([item(2, 2)], "pooled")
    assert gone.cancel()
    assert worker.counters().queued_items == 1
    assert worker.counters().queued_tokens == 2
    engine.gate.set()
    assert pooled(kept) == [4.0]
    assert engine.batches[-1] == (1, 2)
    with pytest.raises(CancelledError):
        gone.result(0)


def test_a_call_cancelled_while_it_runs_harms_nothing(engine, worker):
    busy = hold(engine, worker)
    assert busy.cancel()
    engine.gate.set()
    assert pooled(worker.submit([item(4)], "pooled")) == [4.0]


def test_a_call_that_is_late_is_dropped_and_said_so(engine, worker):
    hold(engine, worker)
    late, kept = (
        worker.submit([item(1, 1)], "pooled", deadline_s=0.0),
        worker.submit([item(2, 2)], "pooled", deadline_s=60.0),
    )
    engine.gate.set()
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert pooled(kept) == [4.0]
    assert worker.counters().expired == 1
    assert (1, 2) in engine.batches


def test_more_than_was_admitted_is_refused_with_a_time_to_wait(engine):
    worker = Worker(engine, feed=FEED, limits=LIMITS, max_queued_tokens=10)
    hold(engine, worker)
    first = worker.submit([item(*range(8))], "pooled")
    with pytest.raises(Overload, match="8 tokens are queued and 10 are admitted") as refused:
        worker.submit([item(1, 2, 3)], "pooled")
    assert refused.value.retry_after_s >= 1.0
    fits = worker.submit([item(1, 2)], "pooled")
    engine.gate.set()
    assert pooled(first) == [28.0]
    assert pooled(fits) == [3.0]
    assert worker.counters().refused == 1
    worker.close(10)


class Clock:
    """Stands for the module `time`: a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("took_s", "wait_s", "told"),
    [(0.5, 4.0, "in 4 s"), (0.01, 1.0, "in 1 s"), (500.0, 60.0, "in 60 s")],
    ids=["4", "least", "most"],
)
def test_the_time_to_wait_is_what_the_queue_takes(engine, monkeypatch, took_s, wait_s, told):
    from poolrt.runtime.batching import worker as module

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    worker = Worker(engine, feed=FEED, limits=LIMITS, max_queued_tokens=8)
    busy = hold(engine, worker)
    clock.now += took_s  # one token in so many seconds
    engine.gate.set()
    busy.result(10)
    hold(engine, worker)
    worker.submit([item(*range(8))], "pooled")
    with pytest.raises(Overload, match=told) as refused:
        worker.submit([item(1)], "pooled")
    assert refused.value.retry_after_s == wait_s
    engine.gate.set()
    worker.close(10)


def test_an_answer_does_not_keep_its_neighbours_alive(engine, worker):
    hold(engine, worker)
    calls = [worker.submit([item(*range(1, length))], "pooled", "tokens") for length in (6, 7, 8)]
    engine.gate.set()
    for call in calls:
        answer = call.result(10)
        for row in (answer.rows[0], answer.others[0][0]):
            assert row.base is None, "a view keeps the whole batch in memory"
    assert engine.batches[-1] == (3, 7)


def test_an_idle_lane_does_not_hold_its_last_call(worker):
    call = worker.submit([item(1, 2), item(3)], "pooled")
    kept = weakref.ref(call.result(10).rows[0])
    del call
    deadline = time.monotonic() + 10
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert kept() is None


def test_times_and_sums_are_of_what_was_computed(engine, monkeypatch):
    from poolrt.runtime.batching import worker as module

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    worker = Worker(engine, feed=FEED, limits=LIMITS)
    busy = hold(engine, worker)
    assert worker.counters().running_items == 1
    clock.now += 1.0
    call = worker.submit([item(1, 2, 3), item(4, 5)], "pooled")
    clock.now += 2.0
    assert worker.stalled_s() == 3.0
    engine.gate.set()
    busy.result(10)
    answer = call.result(10)
    worker.close(10)
    assert (answer.tokens, answer.slots, answer.queue_s, answer.engine_s) == (5, 6, 2.0, 0.0)
    assert busy.result(0).engine_s == 3.0
    counters = worker.counters()
    assert (counters.items, counters.tokens, counters.slots, counters.batches) == (3, 6, 7, 2)
    assert (counters.queue_s, counters.engine_s) == (4.0, 3.0)
    assert counters.padding == pytest.approx(7 / 6 - 1)
    assert (call.done_items, busy.done_items) == (2, 1)


def test_a_call_larger_than_the_limit_is_admitted_to_an_empty_queue(engine):
    worker = Worker(engine, feed=FEED, limits=LIMITS, max_queued_tokens=10)
    assert pooled(worker.submit([item(*range(20))], "pooled")) == [190.0]
    worker.close(10)


def test_a_short_call_passes_a_long_one(engine, worker):
    hold(engine, worker)
    order = []
    long = worker.submit([item(*range(1, 31)) for _ in range(50)], "pooled")
    short = worker.submit([item(1, 2)], "pooled")
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    engine.gate.set()
    long.result(10)
    short.result(10)
    assert order == ["short", "long"]
    assert engine.batches.index((1, 2)) <= 3


def test_a_long_call_is_not_starved_by_short_ones(engine, worker):
    hold(engine, worker)
    long = worker.submit([item(*range(1, 31)) for _ in range(4)], "pooled")
    passed = []

    def another(_):
        # Two are always in line before the next batch is chosen, for ever if need be.
        if not long.done() and len(passed) < 1000:
            passed.append(1)
            worker.submit([item(1, 2, 3)], "tokens").add_done_callback(another)

    another(None)
    another(None)
    engine.gate.set()
    long.result(10)
    # 120 tokens of the long call against 3 at a time: its fair share comes after some 40 of each stream.
    assert 10 < len(passed) < 200


@pytest.fixture
def ranking(engine):
    made = Worker(engine, feed=FEED, limits=LIMITS, policy="priority")
    yield made
    engine.gate.set()
    made.close(10)


def finished(engine, calls):
    """Names of calls in the order in which they were answered, from when the engine is let go."""
    order = []
    for name, future in calls.items():
        future.add_done_callback(lambda _, name=name: order.append(name))
    engine.gate.set()
    for future in calls.values():
        future.result(10)
    return order


def test_priorities_order_the_line_and_equal_ones_keep_their_turn(engine, ranking):
    hold(engine, ranking)
    # 40 tokens: a batch has room for one.
    asked = {"late": 5, "first": 0, "second": 0, "urgent": -1}
    calls = {
        name: ranking.submit([item(*range(1, 41))], "pooled", priority=priority)
        for name, priority in asked.items()
    }
    assert finished(engine, calls) == ["urgent", "first", "second", "late"]


def test_a_long_call_of_one_priority_is_not_passed(engine, ranking):
    hold(engine, ranking)
    calls = {
        "long": ranking.submit([item(*range(1, 41)) for _ in range(5)], "pooled"),
        "short": ranking.submit([item(1, 2)], "pooled"),
        "urgent": ranking.submit([item(3, 4)], "tokens", priority=-(2**63)),
    }
    assert finished(engine, calls) == ["urgent", "long", "short"]


def test_a_batch_fills_up_with_less_urgent_items_that_lengthen_no_row(engine, ranking):
    hold(engine, ranking)
    calls = [ranking.submit([item(*range(1, length + 1))], "pooled", priority=priority) for length,
        priority in
             ((30, 3), (8, 2), (7, 2), (8, 0), (8, 1), (2, 1))]  # fmt: skip
    engine.gate.set()
    assert [pooled(future) for future in calls] == [[465.0], [36.0], [28.0], [36.0], [36.0], [3.0]]
    # Rows of 8 (three equal ones), 7 and 2, six short of 8: seven tokens of padding, one launch costs eight.
    assert engine.batches == [(1, 1), (3, 8), (1, 30)]


def test_urgent_items_leave_when_their_call_is_cancelled(engine, ranking):
    hold(engine, ranking)
    gone, kept = (
        ranking.submit([item(1)] * 3, "pooled", priority=1),
        ranking.submit([item(2)], "pooled", priority=2),
    )
    assert gone.cancel()
    engine.gate.set()
    assert pooled(kept) == [2.0]
    assert engine.batches == [(1, 1), (1, 1)]


def test_priorities_change_nothing_where_arrival_decides(engine, worker):
    hold(engine, worker)
    calls = {
        name: worker.submit([item(*range(1, 41))], "pooled", priority=priority)
        for name, priority in {"a": 9, "b": 0, "c": -9}.items()
    }
    assert finished(engine, calls) == ["a", "b", "c"]


def test_closing_finishes_what_is_queued(engine, worker):
    hold(engine, worker)
    queued = worker.submit([item(3, 4)], "pooled")
    closer = threading.Thread(target=worker.close, args=(10,))
    closer.start()
    engine.gate.set()
    closer.join(10)
    assert pooled(queued) == [7.0]
    assert engine.closed
    with pytest.raises(EngineError, match="closed"):
        worker.submit([item(1)], "pooled")


def test_closing_gives_up_on_what_does_not_finish(engine, worker):
    hold(engine, worker)
    queued = worker.submit([item(3, 4)], "pooled")
    worker.close(0.01)
    with pytest.raises(EngineError, match="closed before"):
        queued.result(10)


def test_a_hanging_engine_shows(engine, worker):
    assert worker.stalled_s() == 0.0
    hold(engine, worker)
    begun = time.monotonic()
    while worker.stalled_s() <= 0.0:
        assert time.monotonic() - begun < 10
    engine.gate.set()


def test_no_items_are_answered_at_once(worker):
    assert worker.submit([], "pooled").result(0).rows == []


def test_expansion_tokens_are_not_attended_but_answered(worker):
    expanded = Item(ids=[5, 6, 9, 9], attention=[1, 1, 0, 0])
    assert pooled(worker.submit([expanded], "pooled")) == [11.0]
    assert len(worker.submit([expanded], "tokens").result(10).rows[0]) == 4


def test_rows_that_fill_a_profile_are_attended_and_dropped(engine):
    engine.profiles = (Profile(smallest=(4, 8), best=(4, 8), largest=(4, 8)),)
    seen = []
    run = engine.run
    engine.run = lambda inputs, outputs, alone: (
        seen.append(inputs["attention_mask"].sum(axis=1).tolist()) or run(inputs, outputs)
    )
    limits = BatchLimits(max_tokens=64, launch_tokens=8, profiles=engine.profiles)
    worker = Worker(engine, feed=FEED, limits=limits)
    assert pooled(worker.submit([item(1, 2)], "pooled")) == [3.0]
    assert engine.batches == [(4, 8)]
    assert seen == [[2, 1, 1, 1]]
    worker.close(10)


class Lanes(Sums):
    """Several lanes; while the gate is shut, batches wait in the engine. `alone` is
    what each batch was told."""

    lanes = 2

    def __init__(self) -> None:
        super().__init__()
        self.alone: list[bool] = []

    def run(self, inputs, outputs, *, alone=False):
        self.alone.append(alone)
        return super().run(inputs, outputs)


@pytest.fixture
def lanes():
    engine = Lanes()
    worker = Worker(engine, feed=FEED, limits=LIMITS)
    yield engine, worker
    engine.gate.set()
    worker.close(10)


def soon(claim):
    begun = time.monotonic()
    while not claim():
        assert time.monotonic() - begun < 10
        time.sleep(0.001)


def test_lanes_run_batches_side_by_side(lanes):
    engine, worker = lanes
    engine.gate.clear()
    first = worker.submit([item(1)], "pooled")
    soon(lambda: len(engine.alone) == 1)
    second = worker.submit([item(2)], "pooled")
    soon(lambda: len(engine.alone) == 2)
    assert worker.counters().running_items == 2
    assert worker.stalled_s() > 0.0
    engine.gate.set()
    assert (pooled(first), pooled(second)) == ([1.0], [2.0])
    assert engine.alone == [True, False]
    assert (worker.counters().running_items, worker.stalled_s()) == (0, 0.0)


def test_free_lanes_share_what_is_queued(lanes):
    engine, worker = lanes
    engine.gate.clear()
    busy = [worker.submit([item(1)], "pooled")]
    soon(lambda: len(engine.alone) == 1)
    busy.append(worker.submit([item(1)], "pooled"))
    soon(lambda: len(engine.alone) == 2)
    call = worker.submit([item(*[number] * 8) for number in range(1, 7)], "pooled")
    engine.gate.set()
    assert pooled(call) == [8.0 * number for number in range(1, 7)]
    assert [pooled(future) for future in busy] == [[1.0], [1.0]]
    # 48 tokens for two lanes, or all of them for the one that came first: never less
    # than two launches' worth.
    assert all(rows * width >= 16 for rows, width in engine.batches if width > 1)


class Gates(Lanes):
    """Batches that begin with 1 or 2 wait for a gate of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = {1: threading.Event(), 2: threading.Event()}

    def run(self, inputs, outputs, *, alone=False):
        if (gate := self.gates.get(int(inputs["input_ids"][0, 0]))) is not None:
            self.entered.set()
            assert gate.wait(10)
        return super().run(inputs, outputs, alone=alone)


class Patient(Returning):
    """Waits for a minute."""

    def answered(self, callers, calls, now, launch_s):
        super().answered(callers, calls, now + 60.0, launch_s)


def test_a_lane_lets_the_callers_that_it_answered_come_back(monkeypatch):
    monkeypatch.setattr(worker_module, "Returning", Patient)
    engine = Gates()
    worker = Worker(engine, feed=FEED, limits=LIMITS)
    try:
        busy = worker.submit([item(1)], "pooled")
        soon(engine.entered.is_set)
        engine.entered.clear()
        caller = worker.submit([item(2)], "pooled")
        soon(engine.entered.is_set)
        queued = worker.submit([item(5)], "pooled")
        engine.gates[2].set()
        assert pooled(caller) == [2.0]
        time.sleep(0.05)  # a lane without patience computes what is queued
        assert engine.batches == [(1, 1)]
        again = worker.submit([item(6)], "pooled")
        assert (pooled(queued), pooled(again)) == ([5.0], [6.0])
        assert engine.batches == [(1, 1), (2, 1)]
        # That one answered two callers. With a launch's worth or two in the queue nobody is waited for.
        much = worker.submit([item(*[7] * 8), item(*[8] * 8)], "pooled")
        assert pooled(much) == [56.0, 64.0]
        # Nor where no other lane computes.
        lone = worker.submit([item(9)], "pooled")
        engine.gates[1].set()
        assert (pooled(busy), pooled(lone)) == ([1.0], [9.0])
    finally:
        engine.gates[1].set()
        worker.close(10)


def test_patience_lasts_a_launch_and_ends_with_the_last_caller():
    returning = Returning()
    assert returning.patience_s(3, now=10.0) == 0.0
    returning.answered(2, calls=5, now=10.0, launch_s=0.010)
    assert returning.patience_s(5, now=10.004) == pytest.approx(0.006)
    assert returning.patience_s(6, now=10.004) == pytest.approx(0.006)
    assert returning.patience_s(7, now=10.004) == 0.0
    assert returning.patience_s(6, now=10.011) == 0.0
    returning.answered(2, calls=5, now=10.0, launch_s=9.0)
    assert returning.patience_s(5, now=10.0) == pytest.approx(MOST_S)


def test_many_threads_get_their_own_answers_from_several_lanes(lanes):
    _, worker = lanes
    generator = np.random.default_rng(0)
    calls = [
        [item(*generator.integers(1, 600, generator.integers(1, 30)).tolist()) for _ in range(5)]
        for _ in range(200)
    ]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda items: pooled(worker.submit(items, "pooled")), calls))
    assert found == [[float(sum(one.ids)) for one in items] for items in calls]
    counters = worker.counters()
    assert (counters.items, counters.queued_items, counters.queued_tokens, counters.running_items) == (
        1000,
        0,
        0,
        0,
    )


def test_a_lane_that_meets_a_bad_item_leaves_the_other_alone(lanes):
    engine, worker = lanes
    engine.most = 2
    bad = worker.submit([item(POISON, 1)] + [item(3, 3)] * 5, "pooled")
    good = [worker.submit([item(number, 2)] * 3, "pooled") for number in range(20)]
    assert [pooled(future) for future in good] == [[number + 2.0] * 3 for number in range(20)]
    with pytest.raises(EngineError, match="broken"):
        bad.result(10)
    assert worker.counters().running_items == 0


def test_closing_waits_for_every_lane(lanes):
    engine, worker = lanes
    engine.gate.clear()
    running = []
    for number in (1, 2):
        running.append(worker.submit([item(number)], "pooled"))
        soon(lambda entered=number: len(engine.alone) == entered)
    running.append(worker.submit([item(3)], "pooled"))
    closer = threading.Thread(target=worker.close)
    closer.start()
    assert not engine.closed
    engine.gate.set()
    closer.join(10)
    assert engine.closed
    assert [pooled(future) for future in running] == [[1.0], [2.0], [3.0]]


def test_an_event_loop_awaits_without_a_thread(worker):
    async def ask():
        return await asyncio.wrap_future(worker.submit([item(2, 3)], "pooled"))

    assert asyncio.run(ask()).rows[0].tolist() == [5.0]
