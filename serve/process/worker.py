"""One process of several: how it is placed, what it tells the supervisor, and what it is asked."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any, Protocol

from ...runtime.errors import EXIT_INTERRUPTED
from ..models.adapter_loading import stopping
from ..models.changes import Change, Order, Refusal, Reply
from .placement import Place

log = logging.getLogger("poolrt.serve")

READY, ATTENDS = 1, 2
"""Bits of a worker's state: it was ready once; it reports metrics now."""
SCRAPE_S = 5.0
"""Time that the other processes get to report their metrics."""


LOOK_S = 0.2
"""Time between two checks whether this process ends while it waits for the supervisor."""


@dataclass(frozen=True, slots=True)
class Join:
    """Asks for the changes that were made since."""

    known: int
    """How many changes this worker has made."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a worker gets from the supervisor."""

    rank: int
    port: int
    """That all workers serve; the flag may say 0."""
    place: Place
    states: SynchronizedArray[Any]
    """Of each rank: READY and ATTENDS."""
    asking: Connection
    """To ask the supervisor for the metrics of all."""
    telling: Connection
    """On which the supervisor asks for this worker's own."""
    sockets: Sequence[socket.socket]
    """At which it listens; empty: it binds its own, with SO_REUSEPORT."""
    wishes: Connection
    """To ask the supervisor for a change of what all serve."""
    orders: Connection
    """On which the supervisor has this worker change what it serves."""
    changes: Sequence[Change]
    """That the others have made before this worker was started."""
    change_count: int
    """How many there were before they were compacted."""
    opens_first: bool
    """Whether it listens only once its models are open: others serve meanwhile."""


class Worker:
    """The `Peers` of a worker, and its `Supervision`."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._lock = threading.Lock()
        self._own: Callable[[], bytes] | None = None
        self._wishing = threading.Lock()
        self._known = wiring.change_count
        self._left = False

    @property
    def rank(self) -> int:
        return self._wiring.rank

    @property
    def port(self) -> int:
        return self._wiring.port

    @property
    def threads(self) -> int | None:
        """Of its engine."""
        return self._wiring.place.threads

    @property
    def opens_first(self) -> bool:
        return self._wiring.opens_first

    @property
    def changes(self) -> Sequence[Change]:
        """That the others have made before this worker was started."""
        return self._wiring.changes

    def change(self, change: Change) -> Reply:
        return self._wish(change)

    def missed(self) -> Sequence[Change]:
        changes = self._wish(Join(self._known))
        if isinstance(changes, Refusal):
            raise changes.error()
        self._known += len(changes)
        return changes

    def _wish(self, wish: Change | Join) -> Any:
        wishes = self._wiring.wishes
        with self._wishing:
            try:
                wishes.send(wish)
                while not self._left:
                    if wishes.poll(LOOK_S):
                        return wishes.recv()
            except (OSError, EOFError):
                pass  # the supervisor is gone, so this process ends too
        return Refusal.of(stopping())

    def follow(self, obey: Callable[[Order], Reply]) -> None:
        orders = self._wiring.orders

        def follow() -> None:
            with contextlib.suppress(OSError, EOFError):
                while True:
                    orders.send(obey(orders.recv()))

        threading.Thread(target=follow, name="poolrt-orders", daemon=True).start()

    def leave(self) -> None:
        self._left = True

    def ready(self) -> bool:
        states = self._wiring.states
        with states.get_lock():
            before = self.all_ready()
            states[self.rank] |= READY
            return not before and self.all_ready()

    def all_ready(self) -> bool:
        return all(state & READY for state in self._wiring.states[:])

    def metrics(self) -> bytes | None:
        asking = self._wiring.asking
        with self._lock:
            try:
                while asking.poll():  # a reply that came too late for an earlier scrape
                    asking.recv_bytes()
                asking.send_bytes(b"metrics")
                return asking.recv_bytes() if asking.poll(SCRAPE_S) else None
            except (OSError, EOFError):
                return None

    def report(self, own: Callable[[], bytes]) -> None:
        """Says how this worker's own metrics are read."""
        self._own = own
        with self._wiring.states.get_lock():
            self._wiring.states[self.rank] |= ATTENDS

    def attend(self) -> None:
        """Reports this worker's metrics whenever the supervisor asks, in a thread. When the supervisor is
        gone, the worker finishes its requests and ends."""
        threading.Thread(target=self._attend, name="poolrt-telling", daemon=True).start()

    def _attend(self) -> None:
        telling = self._wiring.telling
        try:
            while True:
                telling.recv_bytes()
                own = self._own
                telling.send_bytes(b"" if own is None else own())
        except (OSError, EOFError):
            log.warning("the supervisor is gone: ending")
            os.kill(os.getpid(), signal.SIGTERM)


class Serve(Protocol):
    """Serves as one process of several. Returns its exit code."""

    def __call__(self, options: Any, worker: Worker, sockets: Sequence[socket.socket], /) -> int: ...


def main(serve: Serve, options: Any, wiring: Wiring) -> None:
    """A worker's process, from its beginning to its exit code."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the supervisor, which ends its workers in order
    place = wiring.place
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    if place.cpus is not None:
        try:
            os.sched_setaffinity(0, place.cpus)
        except OSError as error:  # they were taken from this container since the server was started
            log.warning("worker %d is not bound to its processors: %s", wiring.rank, error.strerror)
    try:
        sys.exit(serve(options, Worker(wiring), wiring.sockets))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
