"""Several processes behind one port. The supervisor starts them, starts a dead one again, ends them in order,
and sums their metrics. It serves nothing itself."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ...runtime.errors import EXIT_OK
from ..metrics.merging import Total, summed
from ..models.watching import WatchedFolder
from .changing import Changing, Link
from .placement import Place
from .signals import on_hangup
from .worker import ATTENDS, READY, SCRAPE_S, Serve, Wiring, main

log = logging.getLogger("poolrt.serve")

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Before a dead worker is started again; it doubles as long as workers die young."""
OLD_S = 60.0
"""A worker that lived so long died of something new."""
GRACE_S = 10.0
"""Beyond the time that requests get, before a worker that does not end is killed."""
TICK_S = 0.5
Pipes = tuple[Connection, Connection]
LOOK_S = 0.2
"""Until the thread that sums metrics sees a new worker."""


@dataclass(slots=True)
class Process:
    """A rank, and the process that has it now."""

    rank: int
    process: SpawnProcess | None = None
    questions: Connection | None = None
    telling: Connection | None = None
    begun: float = 0.0
    wait_s: float = FIRST_WAIT_S
    again_at: float = 0.0
    last: bytes = b""
    """What it reported last."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()


class Supervisor:
    """The processes of one server.

    Args:
        serve: what a worker does; another process must be able to import it.
        options: of `poolrt serve`, for every worker.
        places: where each computes; there are as many workers.
        sockets: bound ones that all share; empty: each binds its own to the port.
        first_sockets: listening ones for the first worker alone, which it takes over: clients wait there.
        watched: a folder whose artifacts are followed.
        timeout_s: that running requests get after SIGTERM.
    """

    def __init__(
        self,
        serve: Serve,
        options: Any,
        places: Sequence[Place],
        port: int,
        sockets: Sequence[socket.socket],
        timeout_s: float,
        *,
        first_sockets: Sequence[socket.socket] = (),
        watched: WatchedFolder | None = None,
    ) -> None:
        self._serve = serve
        self._options = options
        self._port = port
        self._timeout_s = timeout_s
        self._places = places
        self._sockets = list(sockets)
        self._context = multiprocessing.get_context("spawn")
        self._states: Any = self._context.Array("i", [0] * len(places))
        self._workers = [Process(rank) for rank in range(len(places))]
        self._first_sockets = list(first_sockets)
        self._changing = Changing(watched, lambda: all(map(self._was_ready, range(len(places)))))
        self._total = Total()
        self._restarts = 0
        self._signals = 0
        self._code: int | None = None

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. Returns the exit code: that of a worker that cannot start."""
        before = {name: signal.signal(name, self._stop) for name in (signal.SIGTERM, signal.SIGINT)}
        on_hangup(self._stop)
        hub = threading.Thread(target=self._attend, name="poolrt-metrics", daemon=True)
        hub.start()
        self._changing.start()
        try:
            while not self._signals and self._code is None:
                self._start_due()
                self._wait()
                self._bury()
            return self._end()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._signals += 1

    def _was_ready(self, rank: int) -> bool:
        return bool(self._states[rank] & READY)

    def _start_due(self) -> None:
        """Starts the workers whose time has come. Until the first one is ready it is alone: what is worked
        out once per machine (exports, compiled graphs, measurements) is then there for the others."""
        for worker in self._workers:
            if worker.process is None and time.monotonic() >= worker.again_at:
                self._start(worker)
            if worker.rank == 0 and not self._was_ready(0):
                return

    def _start(self, worker: Process) -> None:
        questions, asking = cast("Pipes", self._context.Pipe())
        asking_own, telling = cast("Pipes", self._context.Pipe())
        wishes, wishes_there = cast("Pipes", self._context.Pipe())
        orders, orders_there = cast("Pipes", self._context.Pipe())
        changes, change_count = self._changing.made()
        sockets, first = self._sockets, worker.rank == 0 and self._first_sockets
        wiring = Wiring(
            rank=worker.rank,
            port=self._port,
            place=self._places[worker.rank],
            states=self._states,
            asking=asking,
            telling=telling,
            sockets=first or sockets,
            wishes=wishes_there,
            orders=orders_there,
            changes=changes,
            change_count=change_count,
            opens_first=worker.rank > 0 or self._was_ready(0),
        )
        worker.process = self._context.Process(
            target=main, args=(self._serve, self._options, wiring), daemon=False
        )
        worker.process.start()
        for pipe in (asking, telling, wishes_there, orders_there):
            pipe.close()
        self._changing.add(Link(worker.rank, wishes, orders))
        if first:  # should it die, clients must not wait at a socket that nobody accepts from
            for sock in first:
                sock.close()
            self._first_sockets = []
        worker.questions, worker.telling, worker.begun = questions, asking_own, time.monotonic()

    def _wait(self) -> None:
        """Until a worker dies, a signal comes or a worker is due."""
        sentinels = [worker.process.sentinel for worker in self._workers if worker.process is not None]
        if sentinels:
            connection.wait(sentinels, TICK_S)
        else:
            time.sleep(TICK_S)

    def _bury(self) -> None:
        """Takes note of dead workers, and when each is started again."""
        for worker in self._workers:
            process = worker.process
            if process is None or process.is_alive() or self._signals:
                continue
            process.join()
            code = process.exitcode or 0
            if not self._was_ready(worker.rank) and code > 0:
                self._code = code  # it said why; another try would say the same
                return
            lived = time.monotonic() - worker.begun
            worker.again_at = time.monotonic() + (0.0 if lived > OLD_S else worker.wait_s)
            worker.wait_s = FIRST_WAIT_S if lived > OLD_S else min(worker.wait_s * 2, LONGEST_WAIT_S)
            with worker.lock:
                self._total.add(worker.last)
                worker.last = b""
                for pipe in (worker.questions, worker.telling):
                    if pipe is not None:
                        pipe.close()
                worker.process = worker.questions = worker.telling = None
                self._states[worker.rank] &= READY
            self._restarts += 1
            log.warning(
                "worker %d ended (%s) after %.0f s; it is started again",
                worker.rank,
                f"signal {-code}" if code < 0 else f"code {code}",
                lived,
            )

    def _end(self) -> int:
        """Has every worker finish its requests, and kills those that do not end in time."""
        for sock in self._sockets:  # nobody accepts from them any more
            sock.close()
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._timeout_s + GRACE_S
        seen = self._signals
        while any(process.is_alive() for process in running) and time.monotonic() < until:
            connection.wait([process.sentinel for process in running if process.is_alive()], 0.1)
            if self._signals > seen:  # a second signal: the workers end now
                seen = self._signals
                for process in running:
                    if process.is_alive():
                        process.terminate()
        for process in running:
            if process.is_alive():
                log.warning("a worker did not end in time and is killed")
                process.kill()
            process.join()
        return EXIT_OK if self._code is None else self._code

    def _attend(self) -> None:
        """Responds to workers that ask for the metrics of all, in a thread of its own."""
        while True:
            pipes = {worker.questions: worker for worker in self._workers if worker.questions is not None}
            try:
                ready = connection.wait(list(pipes), LOOK_S) if pipes else time.sleep(LOOK_S) or []
            except OSError:  # a pipe was closed meanwhile
                continue
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    pipe.recv_bytes()
                    pipe.send_bytes(self.metrics())
                except (OSError, EOFError):
                    time.sleep(0.05)  # its worker died, which `_bury` sees
                except Exception:
                    log.exception("the metrics of all workers could not be summed")

    def metrics(self) -> bytes:
        """The metrics of all workers. What a worker reported last stands for one that is busy or dead."""
        for worker in self._workers:
            with worker.lock:
                telling = worker.telling
                if telling is None or not self._states[worker.rank] & ATTENDS:
                    continue
                with contextlib.suppress(OSError, EOFError):
                    while telling.poll():  # a late reply
                        worker.last = telling.recv_bytes() or worker.last
                    telling.send_bytes(b"metrics")
                    if telling.poll(SCRAPE_S / 2):
                        worker.last = telling.recv_bytes() or worker.last
        alive = GaugeMetricFamily(
            "poolrt_workers", "Processes that serve.", sum(worker.alive for worker in self._workers)
        )
        restarts = CounterMetricFamily(
            "poolrt_worker_restarts", "Processes that were started again.", self._restarts
        )
        return summed(
            [worker.last for worker in self._workers if worker.last], self._total, [alive, restarts]
        )


def shares_port() -> bool:
    """Whether the system spreads connections over sockets of one port. Linux does; elsewhere the workers take
    turns at one socket."""
    return sys.platform == "linux"
