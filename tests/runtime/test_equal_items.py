"""Equal items are computed once: of one call, of one batch across callers, and of later calls where rows are
kept."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.worker import Worker
from poolrt.runtime.inputs.items import Item, VisionItem

from tests.runtime.test_worker import FEED, LIMITS, POISON, Sums, hold, item, pooled


@pytest.fixture
def engine():
    return Sums()


@pytest.fixture
def worker(engine):
    worker = Worker(engine, feed=FEED, limits=LIMITS, kept_bytes=2000)
    yield worker
    engine.gate.set()
    worker.close(10)


def rows_of(engine) -> int:
    return sum(rows for rows, _ in engine.batches)


def test_equal_items_of_a_call_are_computed_once(engine, worker):
    answer = worker.submit([item(1, 2), item(3), item(1, 2), item(1, 2)], "pooled").result(10)
    assert [float(row[0]) for row in answer.rows] == [3, 3, 3, 3]
    assert rows_of(engine) == 2
    assert answer.tokens == 7
    counters = worker.counters()
    assert (counters.items, counters.shared_items, counters.tokens) == (4, 2, 3)


def test_each_caller_gets_rows_of_its_own(worker):
    answer = worker.submit([item(1, 2), item(1, 2)], "pooled").result(10)
    answer.rows[0][0] = 100
    assert float(answer.rows[1][0]) == 3
    assert pooled(worker.submit([item(1, 2)], "pooled")) == [3]


def test_equal_items_of_callers_that_share_a_batch_are_computed_once(engine, worker):
    hold(engine, worker)
    calls = [worker.submit([item(7, 8), item(number)], "pooled") for number in (1, 2, 3)]
    engine.gate.set()
    assert [pooled(call) for call in calls] == [[15, 1], [15, 2], [15, 3]]
    assert engine.batches[1][0] == 4, "7, 8 once, and 1, 2, 3"
    assert worker.counters().shared_items == 2


def test_a_cancelled_twin_takes_nothing_from_the_others(engine, worker):
    hold(engine, worker)
    first, second = (worker.submit([item(7, 8), item(7, 8)], "pooled") for _ in range(2))
    first.cancel()
    engine.gate.set()
    assert pooled(second) == [15, 15]


def test_a_broken_item_fails_every_call_that_has_it_and_no_other(engine, worker):
    hold(engine, worker)
    bad = [worker.submit([item(POISON, 1), item(4)], "pooled") for _ in range(2)]
    good = worker.submit([item(5, 6), item(5, 6)], "pooled")
    engine.gate.set()
    assert pooled(good) == [11, 11]
    for call in bad:
        assert "broken" in str(call.exception(10))


@pytest.mark.parametrize(
    "other",
    [
        Item(ids=[1, 2, 3], type_ids=[0, 1, 1]),
        Item(ids=[1, 2, 3], attention=[1, 1, 0]),
        Item(ids=[1, 2, 3], kinds=[1, 0, 0]),
        Item(ids=[1, 2]),
        Item(ids=[1, 2, 3 << 32]),
    ],
)
def test_items_that_a_graph_can_tell_apart_have_keys_of_their_own(other):
    assert other.key != Item(ids=[1, 2, 3]).key
    assert Item(ids=[1, 2, 3]).key == Item(ids=[1, 2, 3], prompt_tokens=9, truncated=True).key


def test_items_with_pictures_have_no_key():
    picture = VisionItem({}, 1, 1)
    assert picture.key is None
    assert Item(ids=[1], vision=(picture,)).key is None
    assert Item(ids=[1], features=np.zeros((1, 2), np.float32)).key is None


def test_rows_are_kept_for_later_calls(engine, worker):
    assert pooled(worker.submit([item(1, 2)], "pooled")) == [3]
    assert pooled(worker.submit([item(1, 2), item(4)], "pooled")) == [3, 4]
    assert pooled(worker.submit([item(4), item(1, 2)], "pooled")) == [4, 3]
    assert rows_of(engine) == 2
    assert worker.counters().cached_items == 3
    assert [row[:, 0].tolist() for row in worker.submit([item(4)], "tokens").result(10).rows] == [[4]]
    assert rows_of(engine) == 3, "another output"


def test_a_salt_hides_what_is_kept(engine, worker):
    for salt, computed in (("a", 1), ("b", 2), ("", 3), ("a", 3), ("b", 3), ("", 3)):
        assert pooled(worker.submit([item(1, 2)], "pooled", salt=salt)) == [3]
        assert rows_of(engine) == computed, salt


def test_what_is_kept_is_bounded(engine, worker):
    for number in range(1001, 1900):
        worker.submit([item(number)], "pooled").result(10)
    assert worker.rows.bytes <= 2000
    assert rows_of(engine) == 899
    worker.submit([item(1001)], "pooled").result(10)
    assert rows_of(engine) == 900, "it was dropped"
    worker.submit([item(1899)], "pooled").result(10)
    assert rows_of(engine) == 900


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=30), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_any_mix_of_equal_texts_gets_the_rows_of_each_alone(texts, seed):
    engine = Sums()
    shuffled = random.Random(seed)
    worker = Worker(
        engine,
        feed=FEED,
        limits=BatchLimits(max_tokens=16, launch_tokens=4),
        kept_bytes=shuffled.choice((0, 40)),
    )
    try:
        hold(engine, worker)
        cut = shuffled.randint(0, len(texts))
        calls = [
            (part, worker.submit([item(*ids) for ids in part], "pooled"))
            for part in (texts[:cut], texts[cut:])
        ]
        engine.gate.set()
        for part, call in calls:
            assert pooled(call) == [sum(ids) for ids in part]
    finally:
        engine.gate.set()
        worker.close(10)
