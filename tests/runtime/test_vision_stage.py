"""Two workers behind one call, with engines made of numpy that a test can hold and break."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact.manifest import Profile, Tensor
from poolrt.runtime.batching import stages as stages_module
from poolrt.runtime.batching.line import Policy
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.queue import Answer
from poolrt.runtime.batching.row_cache import RowCache
from poolrt.runtime.batching.stages import Stages
from poolrt.runtime.batching.vision_stage import VisionStage
from poolrt.runtime.batching.worker import Worker
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import DeadlineExceeded, EngineError, InputError, Overload
from poolrt.runtime.inputs.items import Item, VisionItem

LIMITS = BatchLimits(max_tokens=64, launch_tokens=8)
BROKEN = 13.0
TEXT = Feed(
    [
        Tensor(name="input_ids", dtype="int64", axes=("batch", "tokens")),
        Tensor(name="attention_mask", dtype="int64", axes=("batch", "tokens")),
        Tensor(name="features", dtype="float32", axes=("features", 1)),
        Tensor(name="feature_index", dtype="int64", axes=("batch", "tokens")),
    ]
)
VISION = Feed([Tensor(name="pixel_values", dtype="float32", axes=("batch", "patches", 1))])


class Engine:
    """Waits for `gate`; subclasses compute."""

    backend = "numpy"
    lanes = 1
    profiles: Sequence[Profile] = ()

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.batches: list[list[float]] = []
        self.closed = False

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str], *, alone: bool = False) -> list[Any]:
        self.entered.set()
        assert self.gate.wait(10)
        return [self.computed(inputs)]

    def computed(self, inputs: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def hold(self) -> None:
        self.gate.clear()
        self.entered.clear()

    def close(self) -> None:
        self.closed = True


class Reader(Engine):
    """The sum of a prompt's ids, with features in the place of ids."""

    def computed(self, inputs: Mapping[str, Any]) -> Any:
        index = inputs["feature_index"]
        rows = np.where(index > 0, inputs["features"][index][..., 0], inputs["input_ids"])
        sums = (rows * inputs["attention_mask"]).sum(axis=1, keepdims=True).astype(np.float32)
        self.batches.append(sums[:, 0].tolist())
        return sums


class Eye(Engine):
    """Each patch times ten. Fails on BROKEN."""

    def computed(self, inputs: Mapping[str, Any]) -> Any:
        pixels = inputs["pixel_values"]
        self.batches.append(pixels[:, 0, 0].tolist())
        if (pixels == BROKEN).any():
            raise EngineError("broken")
        return pixels * np.float32(10)


class Two:
    """Both engines and their workers."""

    def __init__(
        self,
        *,
        cache: int = 0,
        policy: Policy = "fcfs",
        most: int | None = None,
        apart: bool = False,
    ) -> None:
        self.reader, self.eye = Reader(), Eye()
        self.text = Worker(self.reader, feed=TEXT, limits=LIMITS, max_queued_tokens=most, policy=policy)
        vision = Worker(self.eye, feed=VISION, limits=LIMITS, policy=policy)
        self.stage = VisionStage(vision, "features", cache)
        self.stages = Stages(self.text, self.stage, apart=apart)

    def submit(self, *items: Item, **options: Any) -> Any:
        return self.stages.submit(len(items), [dict(enumerate(items))], "pooled", **options)

    def open(self) -> None:
        self.reader.gate.set()
        self.eye.gate.set()


@pytest.fixture
def opened() -> Iterator[Any]:
    several: list[Two] = []

    def make(**options: Any) -> Two:
        several.append(Two(**options))
        return several[-1]

    yield make
    for two in several:
        two.open()
        two.stages.close(10)


def picture(*values: float, name: str = "") -> VisionItem:
    pixels = np.array(values, np.float32)[:, None]
    return VisionItem({"pixel_values": pixels}, len(values), len(values), name.encode() or pixels.tobytes())


def prompt(*pictures: VisionItem, ids: Sequence[int] = (1,)) -> Item:
    """The pictures' tokens, then ids."""
    count = sum(one.rows for one in pictures)
    places = np.arange(count) if pictures else None
    return Item(ids=[0] * count + list(ids), feature_places=places, vision=tuple(pictures))


def sums(future: Any) -> list[float]:
    answer: Answer = future.result(10)
    return [float(row[0]) for row in answer.rows]


# Results


def test_features_stand_in_the_place_of_their_tokens(opened: Any) -> None:
    two = opened()
    items = [prompt(picture(1, 2), ids=[5]), prompt(ids=[7, 8]), prompt(picture(3), picture(4, 5), ids=[1])]
    assert sums(two.submit(*items)) == [35.0, 15.0, 121.0]
    assert [item.features for item in items] == [None] * 3  # freed


def test_a_picture_apart_is_the_result_itself(opened: Any) -> None:
    two = opened(apart=True)
    items = [Item(ids=[0], vision=(picture(1),)), prompt(ids=[2, 3]), Item(ids=[0], vision=(picture(4),))]
    answer = two.submit(*items).result(10)
    assert [row.ravel().tolist() for row in answer.rows] == [[10.0], [5.0], [40.0]]
    assert two.submit(Item(ids=[0], vision=(picture(1),))).result(10).rows[0].flags.writeable


def test_steps_are_prepared_while_earlier_ones_are_computed(opened: Any) -> None:
    two = opened()
    two.reader.hold()

    def steps() -> Iterator[dict[int, Item]]:
        yield {1: prompt(ids=[3])}
        yield {0: prompt(picture(1))}
        assert two.reader.entered.wait(10)  # the engine runs before the next picture is prepared
        two.open()
        yield {2: prompt(picture(2))}

    future = two.stages.submit(3, steps(), "pooled")
    assert sums(future) == [11.0, 3.0, 21.0]
    assert future.done_items == 3


def test_preparing_waits_while_much_is_in_flight(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages_module, "AHEAD_ITEMS", 2)
    monkeypatch.setattr(stages_module, "AHEAD_BATCHES", 0)
    two = opened()
    two.reader.hold()
    prepared: list[int] = []

    def steps() -> Iterator[dict[int, Item]]:
        for index in range(6):
            prepared.append(index)
            yield {index: prompt(picture(float(index)))}

    thread = threading.Thread(target=lambda: sums(two.stages.submit(6, steps(), "pooled")))
    thread.start()
    while len(prepared) < 2:
        time.sleep(0.001)
    time.sleep(0.05)  # a thread that does not wait would prepare the third
    assert prepared == [0, 1]
    two.open()
    thread.join(10)
    assert prepared == list(range(6))


# Sharing


def test_a_picture_that_repeats_is_computed_once(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    first = two.submit(prompt(picture(1)), prompt(picture(1), picture(2)))
    second = two.submit(prompt(picture(2), picture(1)))
    two.open()
    assert (sums(first), sums(second)) == ([11.0, 31.0], [31.0])
    assert sorted(value for batch in two.eye.batches for value in batch) == [1.0, 2.0]
    assert two.stage.shared == 3


def test_features_are_kept_within_the_bound(opened: Any) -> None:
    two = opened(cache=8)  # two rows
    for value in (1, 2, 1, 3, 1, 2):
        assert sums(two.submit(prompt(picture(value)))) == [value * 10 + 1]
    assert [batch[0] for batch in two.eye.batches] == [1, 2, 3, 2]
    assert (two.stage.cache.hits, two.stage.cache.bytes) == (2, 8)


def test_a_row_larger_than_the_cache_is_not_kept() -> None:
    cache = RowCache(8)
    cache.put(b"a", np.ones(2, np.float32))
    cache.put(b"b", np.ones(3, np.float32))
    assert (b"a" in cache, b"b" in cache, cache.bytes) == (True, False, 8)
    cache.put(b"a", np.ones(1, np.float32))
    assert cache.bytes == 4
    assert RowCache(0).get(b"a") is None


def test_given_features_are_not_computed(opened: Any) -> None:
    two = opened()
    known = VisionItem({}, 1, 0, b"x", np.array([[7.0]], np.float32))
    assert sums(two.submit(prompt(known))) == [8.0]
    assert not two.eye.batches


# Failures, cancelling, time


def test_a_picture_that_fails_fails_its_own_calls_only(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    good = two.submit(prompt(picture(1)), prompt(ids=[4]))
    bad = two.submit(prompt(picture(BROKEN)), prompt(picture(2)))
    both = two.submit(prompt(picture(3), picture(BROKEN)))
    two.open()
    assert sums(good) == [11.0, 4.0]
    for future in (bad, both):
        with pytest.raises(EngineError, match="broken"):
            future.result(10)
    counters = two.text.counters()
    assert (counters.queued_items, counters.queued_tokens, two.stage._flights) == (0, 0, {})


def test_features_of_another_number_than_tokens_are_an_error(opened: Any) -> None:
    two = opened()
    item = prompt(picture(1, 2))
    item.vision[0].rows = 1
    with pytest.raises(EngineError, match="computed 1 features, and the prompt has 2 tokens"):
        two.submit(item).result(10)


def test_a_cancelled_call_leaves_both_queues(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    running = two.submit(prompt(picture(1)))
    assert two.eye.entered.wait(10)
    alone, shared = two.submit(prompt(picture(2))), two.submit(prompt(picture(3)))
    other = two.submit(prompt(picture(3)))
    assert alone.cancel()
    assert shared.cancel()
    assert two.text.counters().queued_items == 2
    two.open()
    assert (sums(running), sums(other)) == ([11.0], [31.0])
    assert sorted(value for batch in two.eye.batches for value in batch) == [1.0, 3.0]
    with pytest.raises(CancelledError):
        alone.result(0)


def test_a_call_with_more_time_outlives_the_one_that_queued_its_picture(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    busy = two.submit(prompt(picture(9)))
    assert two.eye.entered.wait(10)
    short = two.submit(prompt(picture(1)), deadline_s=0.01)
    long = two.submit(prompt(picture(1)))
    time.sleep(0.05)
    two.open()
    assert (sums(busy), sums(long)) == ([91.0], [11.0])
    with pytest.raises(DeadlineExceeded):
        short.result(10)


def test_an_urgent_call_does_not_wait_for_the_place_of_another(opened: Any) -> None:
    two = opened(policy="priority")
    two.eye.hold()
    busy = two.submit(prompt(picture(9)), priority=0)
    assert two.eye.entered.wait(10)
    futures = [two.submit(prompt(picture(float(value))), priority=5) for value in range(1, 5)]
    urgent = two.submit(prompt(picture(4.0)), priority=1)
    two.stage.worker.limits = BatchLimits(max_tokens=1, launch_tokens=0)
    two.open()
    assert sums(urgent) == [41.0]
    assert [sums(future) for future in (busy, *futures)] == [[91.0], [11.0], [21.0], [31.0], [41.0]]
    assert [value for batch in two.eye.batches for value in batch] == [9, 4, 1, 2, 3]


def test_pictures_of_a_long_call_do_not_hold_up_a_short_one(opened: Any) -> None:
    two = opened()
    two.stage.worker.limits = BatchLimits(max_tokens=1, launch_tokens=0)
    two.eye.hold()
    long = two.submit(*(prompt(picture(float(value))) for value in range(20, 26)))
    assert two.eye.entered.wait(10)
    short = two.submit(prompt(picture(1.0)))
    two.open()
    assert sums(short) == [11.0]
    assert len(sums(long)) == 6
    order = [value for batch in two.eye.batches for value in batch]
    assert order.index(1.0) <= 2


def test_the_queue_counts_pictures_as_cost(opened: Any) -> None:
    two = opened(most=20)
    two.eye.hold()
    busy = two.submit(prompt(picture(*range(1, 9))))  # 9 tokens and 8 patches
    counters = two.text.counters()
    assert (counters.queued_items, counters.queued_tokens) == (1, 17)
    with pytest.raises(Overload, match="17 tokens are queued and 20 are admitted"):
        two.submit(prompt(picture(50, 51)))  # 3 tokens and 2 patches
    assert two.text.is_full() is False
    assert two.text.is_full(3)
    text = two.submit(prompt(ids=[1, 1, 1]))
    two.open()
    assert (sums(busy), sums(text)) == ([361.0], [3.0])
    assert two.text.counters().queued_tokens == 0
    assert two.text.counters().refused == 1


def test_an_admitted_call_is_not_refused_between_the_stages(opened: Any) -> None:
    two = opened(most=4)
    two.eye.hold()

    def steps() -> Iterator[dict[int, Item]]:
        yield {0: prompt(picture(1, 2))}  # 5 of 4: an empty queue admits any call
        two.open()
        yield {1: prompt(picture(3, 4))}

    assert sums(two.stages.submit(2, steps(), "pooled")) == [31.0, 71.0]


def test_a_prompt_that_cannot_be_prepared_gives_up_the_call(opened: Any) -> None:
    two = opened()
    two.eye.hold()

    def steps() -> Iterator[dict[int, Item]]:
        yield {0: prompt(picture(1))}
        raise InputError("input 1: image 0: broken")

    with pytest.raises(InputError, match="input 1"):
        two.stages.submit(2, steps(), "pooled")
    counters = two.text.counters()
    assert (counters.queued_items, counters.queued_tokens, two.stage._flights) == (0, 0, {})


# Closing and memory


def test_closing_finishes_what_waits_for_pictures(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    future = two.submit(prompt(picture(1)))
    closing = threading.Thread(target=two.stages.close)
    closing.start()
    while not two.text._closing:
        time.sleep(0.001)
    with pytest.raises(EngineError, match="the model was closed"):
        two.submit(prompt(picture(2)))
    two.open()
    closing.join(10)
    assert sums(future) == [11.0]
    assert (two.reader.closed, two.eye.closed) == (True, True)


def test_closing_in_time_fails_what_waits_for_pictures(opened: Any) -> None:
    two = opened()
    two.eye.hold()
    running, waiting = two.submit(prompt(picture(1))), two.submit(prompt(picture(2)))
    assert two.eye.entered.wait(10)
    two.stages.close(0.01)
    for future in (running, waiting):
        with pytest.raises(EngineError, match="the model was closed"):
            future.result(10)
    two.open()


def test_a_finished_call_keeps_no_features_alive(opened: Any) -> None:
    two = opened()
    item = prompt(picture(1))
    pixels = weakref.ref(item.vision[0].arrays["pixel_values"])
    calls: list[Any] = []
    hold = two.text.hold

    def held(call: Any, *arguments: Any) -> bool:
        calls.append(weakref.ref(call))
        return hold(call, *arguments)

    two.text.hold = held
    gc.collect()
    gc.disable()
    try:
        future = two.submit(item)
        assert sums(future) == [11.0]
        for _ in range(100):  # the worker's thread drops its batch a moment after the result
            if calls[0]() is None:
                break
            time.sleep(0.01)
        assert pixels() is None  # freed by the picture's worker
        del future
        assert calls[0]() is None  # no circle keeps the call
    finally:
        gc.enable()
