"""A call's way through the workers of a model: its pictures first, then its items.

An item is queued when its own pictures are computed, so that both workers run at the same time. All items
count as queued from the beginning: a call that was admitted is not refused between the stages, and a model
that closes finishes what it has begun.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .. import cancellation
from ..artifact.images import Images
from ..engines.feed import Feed
from ..engines.table import Choice, Session
from ..errors import DeadlineExceeded, EngineError, PoolrtError
from ..inputs.items import Item
from ..inputs.media import prepared
from .line import Policy
from .plan import BatchLimits
from .prefix_stage import PrefixStage
from .queue import LATE, Counters, Row, Ticket
from .vision_stage import VisionStage, Wait
from .worker import Worker

AHEAD_ITEMS, AHEAD_BATCHES = 4, 4
"""How far a call's preparation runs ahead of the workers: so many items with pictures, or so many full
batches of patches, whichever is more. Pixels and features of a page take 72 MB in a 2B model."""
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class VisionPart:
    """The opened vision graph of a model."""

    choice: Choice
    session: Session
    feed: Feed
    limits: BatchLimits
    output: str
    cache_bytes: int
    """Most bytes of features that are kept."""

    def stage(self, name: str, policy: Policy) -> VisionStage:
        """Starts its worker."""
        worker = Worker(
            self.session, feed=self.feed, limits=self.limits, policy=policy, name=f"{name}-vision"
        )
        return VisionStage(worker, self.output, self.cache_bytes)


class Stages:
    """The workers of one model. Safe to use from many threads.

    Args:
        vision: None for a model that reads text only.
        apart: whether the row of a picture is the result itself (`Images.apart`).
        prefixes: of the text worker; None: every text is computed whole.
    """

    def __init__(
        self,
        text: Worker,
        vision: VisionStage | None = None,
        *,
        apart: bool = False,
        prefixes: PrefixStage | None = None,
    ) -> None:
        self.text = text
        self.vision = vision
        self.prefixes = prefixes
        self._apart = apart

    def submit(
        self,
        count: int,
        steps: Iterable[Mapping[int, Item]],
        *outputs: str,
        deadline_s: float | None = None,
        priority: int = 0,
        salt: str = "",
    ) -> Ticket:
        """Queues the items of one call as `Worker.submit` does, each behind its pictures. Raises what
        preparing them raises, and Overload where the queue is full: patches of pictures that are not known
        count as tokens.

        Args:
            count: of the items.
            steps: index -> item. What a step prepares is computed while the next one is prepared; where the
                pictures of earlier ones take much memory, the next one waits.
        """
        remaining = iter(steps)
        plain: dict[int, Item] = {}
        seen: Mapping[int, Item] | None = None
        for step in remaining:
            if any(item.vision for item in step.values()):
                seen = step
                break
            plain |= step
        if self.vision is None or seen is None:
            items = [plain[index] for index in range(count)]
            queue = self.text if self.prefixes is None else self.prefixes
            return queue.submit(items, *outputs, deadline_s=deadline_s, priority=priority, salt=salt)
        call = _Call(self, self.vision, count, outputs, deadline_s, priority, apart=self._apart)
        try:
            call.add({**plain, **seen})
            # Room is waited for only where more is to be prepared.
            while call.call.coming and call.room() and (step := next(remaining, None)) is not None:
                call.add(step)
        except BaseException as error:
            call.give_up(error)
            raise
        return call.future

    def close(self, timeout_s: float | None = None) -> None:
        """Refuses new calls, finishes what is queued within `timeout_s` (None: all of it), fails the rest and
        closes the sessions."""
        begun = time.monotonic()
        if self.vision is not None:
            self.text.refuse()
            self.vision.worker.close(timeout_s)
        self.text.close(None if timeout_s is None else max(timeout_s - (time.monotonic() - begun), 0.0))

    def vision_counters(self) -> Counters:
        """Returns the counters of the vision graph's worker; zeros where there is none."""
        return Counters() if self.vision is None else self.vision.worker.counters()

    def warm_up(self, images: Images | None) -> None:
        """Runs a small picture through the vision graph, where there is one."""
        if self.vision is not None and images is not None:
            item = prepared.image(images, np.zeros((64, 64, 3), np.uint8)).items[0]
            self.vision.worker.submit([item], self.vision.output).result()

    def stalled_s(self) -> float:
        """Seconds that the oldest running batch of a worker has taken so far."""
        vision = 0.0 if self.vision is None else self.vision.worker.stalled_s()
        return max(self.text.stalled_s(), vision)


class _Call:
    """One call with pictures."""

    def __init__(
        self,
        stages: Stages,
        vision: VisionStage,
        count: int,
        outputs: tuple[str, ...],
        deadline_s: float | None,
        priority: int,
        *,
        apart: bool,
    ) -> None:
        self._text = stages.text
        self._vision = vision
        self._apart = apart
        self._items: dict[int, Item] = {}
        self._groups: list[int] = []
        """Group of pictures -> index of the item that they belong to."""
        self._flying: dict[int, int] = {}
        """Index of an item with pictures that is not computed yet -> the cost of its pictures."""
        self._changed = threading.Condition()
        self.call = self._text.open(
            count, *outputs, deadline_s=deadline_s, priority=priority, computed=self._computed
        )
        self.future = self.call.future
        self._wait = Wait(self._ready, self._failed, self.call.deadline, priority)
        # A weak reference, as in Worker: the future would hold the call, which holds the future.
        over = weakref.WeakMethod(self._over)
        self.future.add_done_callback(lambda _: None if (method := over()) is None else method())

    def add(self, items: Mapping[int, Item]) -> None:
        """Admits items and queues their pictures. Raises Overload for the first ones, and EngineError."""
        seen = {index: item for index, item in items.items() if item.vision}
        unknown = self._vision.unknown([picture for item in seen.values() for picture in item.vision])
        digests = {picture.digest for picture in unknown}
        before: dict[int, int] = {}
        for index, item in seen.items():
            before[index] = sum(picture.cost for picture in item.vision if picture.digest in digests)
            digests -= {picture.digest for picture in item.vision}
        if not self._text.hold(self.call, items, before):
            return
        with self._changed:
            self._items |= seen
            self._groups += list(seen)
            self._flying |= {
                index: sum(picture.cost for picture in item.vision) for index, item in seen.items()
            }
        for index in items.keys() - seen.keys():
            self._text.queue(self.call, index)
        if seen:
            self._vision.start(self._wait, [item.vision for item in seen.values()])

    def room(self) -> bool:
        """Waits until the next pictures may be prepared. Returns False where the call is over."""
        most = AHEAD_BATCHES * self._vision.worker.limits.max_tokens
        with self._changed:
            while (
                not self.future.done()
                and len(self._flying) >= AHEAD_ITEMS
                and sum(self._flying.values()) > most
            ):
                self._changed.wait(_LOOK_S)
                cancellation.check()
                if self.call.deadline is not None and time.monotonic() > self.call.deadline:
                    raise DeadlineExceeded(LATE)
            return not self.future.done()

    def give_up(self, error: BaseException) -> None:
        """Ends the call, because its other items cannot be prepared."""
        refusal = error if isinstance(error, PoolrtError) else EngineError("the call was given up")
        self._text.fail(self.call, refusal)

    def _ready(self, group: int, rows: list[Row], seconds: float) -> None:
        """The pictures of one item are computed."""
        index = self._groups[group]
        if self._apart:
            self._text.settle(self.call, index, rows[0].copy(), before_s=seconds)
            return
        with self._changed:
            item = self._items.get(index)
        if item is None:  # the call is over
            return
        features = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if item.feature_order is not None and len(features) > item.feature_order.max(initial=-1):
            features = features[item.feature_order]
        places = 0 if item.feature_places is None else len(item.feature_places)
        if len(features) != places:  # each would stand in the place of another
            self._failed(
                EngineError(
                    f"the vision graph computed {len(features)} features, and the prompt has {places} tokens "
                    "for them; export the artifact again"
                )
            )
            return
        item.features = features
        self._text.queue(self.call, index, before_s=seconds)

    def _failed(self, error: PoolrtError) -> None:
        self._text.fail(self.call, error)

    def _computed(self, index: int) -> None:
        """Frees the features of an item: those of a page take tens of megabytes."""
        with self._changed:
            item = self._items.pop(index, None)
            self._flying.pop(index, None)
            self._changed.notify_all()
        if item is not None:
            item.features, item.vision = None, ()

    def _over(self) -> None:
        """The call has its result. Where it failed or was cancelled, its other pictures are given up."""
        self.call.computed = None
        self._vision.cancel(self._wait)
        with self._changed:
            self._items.clear()
            self._flying.clear()
            self._changed.notify_all()
