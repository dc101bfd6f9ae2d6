"""A call's way through the workers of a model: its pictures first, then its items.

An item is queued when its own pictures are computed, so that both workers run at the same time. All items
count as queued from the beginning: a call that was admitted is not refused between the stages, and a model
that closes finishes what it has begun.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..artifact.images import Images
from ..engines.feed import Feed
from ..engines.table import Choice, Session
from ..errors import PoolrtError
from ..inputs.items import Item
from ..inputs.media import prepared
from .plan import BatchLimits
from .queue import Call, Counters, Row, Ticket
from .vision_stage import VisionStage, Wait
from .worker import Policy, Worker


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
    """

    def __init__(self, text: Worker, vision: VisionStage | None = None, *, apart: bool = False) -> None:
        self.text = text
        self.vision = vision
        self._apart = apart

    def submit(
        self, items: Sequence[Item], *outputs: str, deadline_s: float | None = None, priority: int = 0
    ) -> Ticket:
        """Queues the items of one call as `Worker.submit` does, each behind its pictures. Raises Overload
        where the queue is full: the patches of pictures that are not known yet count as tokens."""
        seen = [index for index, item in enumerate(items) if item.vision]
        if self.vision is None or not seen:
            return self.text.submit(items, *outputs, deadline_s=deadline_s, priority=priority)
        groups = [items[index].vision for index in seen]
        unknown = self.vision.unknown([picture for group in groups for picture in group])
        call = self.text.open(
            items,
            *outputs,
            before=sum(picture.cost for picture in unknown),
            deadline_s=deadline_s,
            priority=priority,
            computed=partial(_forget, items),
        )
        ready = partial(self._settled if self._apart else self._queued, call, items, seen)
        wait = Wait(ready, partial(self.text.fail, call), call.deadline, priority)
        try:
            self.vision.start(wait, groups)
        except PoolrtError as error:
            self.text.fail(call, error)
            raise
        # Where the call fails or is cancelled, its other pictures are given up.
        call.future.add_done_callback(lambda done, vision=self.vision: vision.cancel(wait))
        for index, item in enumerate(items):
            if not item.vision:
                self.text.queue(call, index)
        return call.future

    def _queued(
        self, call: Call, items: Sequence[Item], seen: Sequence[int], group: int, rows: list[Row], s: float
    ) -> None:
        """The pictures of one item are computed."""
        items[seen[group]].features = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self.text.queue(call, seen[group], before_s=s)

    def _settled(
        self, call: Call, items: Sequence[Item], seen: Sequence[int], group: int, rows: list[Row], s: float
    ) -> None:
        """A picture that is embedded apart is its item's result."""
        self.text.settle(call, seen[group], rows[0].copy(), before_s=s)

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


def _forget(items: Sequence[Item], index: int) -> None:
    """Frees the features of an item that was computed: those of a page take tens of megabytes."""
    items[index].features = None
