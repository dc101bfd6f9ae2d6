"""Changes what all processes of a server serve: each prepares a change, then all make it, or none does.

One thread of the supervisor does this, so changes are made one after the other, those of requests and those
of a watched folder. A worker that starts meanwhile catches up before it listens.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from ..models.changes import Change, Loaded, Order, Refusal, Reply, compacted
from ..models.watching import WATCH_S, WatchedFolder
from .worker import Join

log = logging.getLogger("poolrt.serve")


@dataclass(eq=False, slots=True)
class Link:
    """The supervisor's ends of the pipes to a worker."""

    rank: int
    wishes: Connection
    orders: Connection
    joined: bool = False
    """It serves what the others serve, and gets orders."""


class Changing:
    """The workers that serve together.

    Args:
        watched: a folder whose artifacts are followed; None: none.
        all_ready: whether every worker was ready once. The folder is looked at from then on.
    """

    def __init__(self, watched: WatchedFolder | None, all_ready: Callable[[], bool]) -> None:
        self._watched, self._all_ready = watched, all_ready
        self._links: list[Link] = []
        self._new: list[Link] = []
        self._history: list[Change] = []
        self._lock = threading.Lock()
        self._waking, self._wake = multiprocessing.Pipe(duplex=False)
        self._look_at = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name="poolrt-changes", daemon=True).start()

    def add(self, link: Link) -> None:
        """Attends to a worker that was started."""
        with self._lock:
            self._new.append(link)
        self._wake.send_bytes(b"new")

    def made(self) -> tuple[list[Change], int]:
        """Returns the changes that lead to what is served now, and how many were made in all."""
        history = tuple(self._history)
        return compacted(history), len(history)

    def _run(self) -> None:
        while True:
            timeout_s = None if self._watched is None else max(0.0, self._look_at - time.monotonic())
            pipes: dict[Any, Link] = {link.wishes: link for link in self._links}
            for pipe in connection.wait([self._waking, *pipes], timeout_s):
                if pipe is self._waking:
                    self._waking.recv_bytes()
                    with self._lock:
                        self._links += self._new
                        self._new.clear()
                else:
                    self._attend(pipes[pipe])
            if self._watched is not None and time.monotonic() >= self._look_at:
                self._look(self._watched)
                self._look_at = time.monotonic() + WATCH_S

    def _attend(self, link: Link) -> None:
        """Fulfils a worker's wish."""
        try:
            wish: Change | Join = link.wishes.recv()
            match wish:
                case Join(known):
                    missed = self._history[known:]
                    link.joined = not missed
                    link.wishes.send(missed)
                case Change():
                    link.wishes.send(self.change(wish))
        except (OSError, EOFError):
            self._forget(link)

    def _look(self, watched: WatchedFolder) -> None:
        if not self._all_ready():
            return
        try:
            changes = watched.look()
        except OSError as error:
            log.warning("--watch-folder %s: %s", watched.folder, error.strerror)
            return
        for change in changes:
            if isinstance(reply := self.change(change), Refusal):
                log.warning("--watch-folder: %s stays as it was: %s", change.name, reply.message)

    def change(self, change: Change) -> Loaded | Refusal | None:
        """Makes a change in every worker that serves, or in none. Returns what was loaded, or the refusal."""
        begun = time.monotonic()
        links = [link for link in self._links if link.joined]
        prepared: list[Link] = []
        # The first one alone: what it works out once per machine is there for the others, and what cannot be
        # opened is opened once.
        for group in (links[:1], links[1:]):
            replies = self._ordered(group, Order("prepare", change))
            prepared += [link for link, reply in replies.items() if isinstance(reply, Change)]
            refusals = [reply for reply in replies.values() if isinstance(reply, Refusal)]
            if refusals:
                self._ordered(prepared, Order("drop"))
                return refusals[0]
            change = next((reply for reply in replies.values() if isinstance(reply, Change)), change)
        if not prepared:
            return Refusal(503, "no process of this server is ready; try again")
        self._history.append(change)
        replies = self._ordered(prepared, Order("commit"))
        loaded = next((reply for reply in replies.values() if isinstance(reply, Loaded)), None)
        if change.kind == "unload":
            return None
        if loaded is None:  # all died just then, and will start with the change
            return Refusal(503, "every process of this server ended; try again")
        return Loaded(loaded.name, loaded.tasks, loaded.replaced, time.monotonic() - begun)

    def _ordered(self, links: Sequence[Link], order: Order) -> dict[Link, Reply]:
        """The replies of workers to an order that they carry out at the same time. A worker that dies over it
        may have died of it, which is a refusal; those that were dead before are left out."""
        busy: list[Link] = []
        for link in links:
            try:
                link.orders.send(order)
                busy.append(link)
            except OSError:
                self._forget(link)
        replies: dict[Link, Reply] = {}
        for link in busy:
            try:
                replies[link] = link.orders.recv()
            except (OSError, EOFError):
                self._forget(link)
                replies[link] = Refusal(
                    500, f"process {link.rank} of this server ended meanwhile; the server's log says why"
                )
        return replies

    def _forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
        for pipe in (link.wishes, link.orders):
            pipe.close()
