"""Several processes change what they serve together: all do, or none, and one that starts catches up."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from poolrt.runtime.errors import ArtifactError
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.models.changes import Change, Loaded, Order, Refusal, Reply, compacted
from poolrt.serve.models.watching import WatchedFolder
from poolrt.serve.process import changing
from poolrt.serve.process.changing import Changing, Link
from poolrt.serve.process.startup import models_from, prepare
from poolrt.serve.process.worker import Join

SOON_S = 60.0
LOAD = Change("load", "main", "/models/new")


def pipe() -> tuple[Connection, Connection]:
    return cast("tuple[Connection, Connection]", Pipe())


class Process:
    """A worker without a process: it keeps the orders that it gets, and replies as it is told."""

    def __init__(self, supervisor: Changing, rank: int, known: int = 0) -> None:
        self.wishes, wishes = pipe()
        self._orders, orders = pipe()
        self.steps: list[str] = []
        self.served: list[Change] = []
        self.refusal: Refusal | None = None
        self.dies = False
        self._prepared: Change | None = None
        supervisor.add(Link(rank, wishes, orders))
        self.missed = self.ask(Join(known))
        if self.missed:
            assert self.ask(Join(known + len(self.missed))) == []
        threading.Thread(target=self._follow, daemon=True).start()

    def ask(self, wish: Change | Join) -> Any:
        self.wishes.send(wish)
        assert self.wishes.poll(SOON_S)
        return self.wishes.recv()

    def end(self) -> None:
        self.wishes.close()
        self._orders.close()

    def _follow(self) -> None:
        while True:
            try:
                order: Order = self._orders.recv()
            except (OSError, EOFError):
                return
            self.steps.append(order.step)
            if self.dies:
                self.end()
                return
            self._orders.send(self._obey(order))

    def _obey(self, order: Order) -> Reply:
        if order.step == "prepare":
            self._prepared = order.change
            return self.refusal or order.change
        assert self._prepared is not None
        if order.step == "drop":
            return None
        self.served.append(self._prepared)
        return Loaded("main", ("embed",), False, 0.0) if self._prepared.kind == "load" else None


@contextmanager
def supervisor(watched: WatchedFolder | None = None) -> Iterator[Changing]:
    supervisor = Changing(watched, lambda: True)
    supervisor.start()
    yield supervisor


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_change_is_made_by_all() -> None:
    with supervisor() as server:
        workers = [Process(server, rank) for rank in range(3)]
        reply = workers[1].ask(LOAD)
        assert isinstance(reply, Loaded)
        assert workers[2].ask(Change("unload", "main")) is None
        for worker in workers:
            assert worker.served == [LOAD, Change("unload", "main")]
            assert worker.steps == ["prepare", "commit"] * 2


@pytest.mark.parametrize("rank", [0, 2])
def test_what_one_refuses_none_serves(rank: int) -> None:
    with supervisor() as server:
        workers = [Process(server, number) for number in range(3)]
        workers[rank].refusal = Refusal(400, "broken")
        assert workers[1].ask(LOAD) == Refusal(400, "broken")
        assert all(worker.served == [] for worker in workers)
        # What the first one refuses is not tried by the others.
        expected = (
            [["prepare"], [], []] if rank == 0 else [["prepare", "drop"], ["prepare", "drop"], ["prepare"]]
        )
        assert [worker.steps for worker in workers] == expected
        assert server.made() == ([], 0)


def test_a_process_that_dies_over_a_change_stops_it() -> None:
    with supervisor() as server:
        workers = [Process(server, rank) for rank in range(2)]
        workers[1].dies = True
        reply = workers[0].ask(LOAD)
        assert isinstance(reply, Refusal)
        assert reply.status == 500
        assert workers[0].steps == ["prepare", "drop"]
        # It is left out from then on, and one that was dead before hinders nothing.
        assert isinstance(workers[0].ask(LOAD), Loaded)


def test_one_that_starts_catches_up() -> None:
    with supervisor() as server:
        first = Process(server, 0)
        first.ask(LOAD)
        first.ask(Change("unload", "other"))
        changes, known = server.made()
        assert (changes, known) == ([LOAD, Change("unload", "other")], 2)
        first.ask(Change("load", "third", "/c"))
        second = Process(server, 1, known)
        assert second.missed == [Change("load", "third", "/c")]
        assert isinstance(second.ask(LOAD), Loaded)
        assert second.served == [LOAD]


def test_nothing_is_changed_while_no_process_serves() -> None:
    with supervisor() as server:
        wishes, there = pipe()
        server.add(Link(0, there, pipe()[0]))
        wishes.send(LOAD)
        assert wishes.poll(SOON_S)
        assert wishes.recv().status == 503


def test_a_watched_folder_is_followed_by_all(
    artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "WATCH_S", 0.01)
    folder = tmp_path / "watched"
    folder.mkdir()
    with supervisor(WatchedFolder(folder)) as server:
        workers = [Process(server, rank) for rank in range(2)]
        shutil.copytree(artifacts("minilm_like"), folder / "new")
        until(lambda: all(worker.served for worker in workers))
        shutil.rmtree(folder / "new")
        until(lambda: all(len(worker.served) > 1 for worker in workers))
    for worker in workers:
        assert worker.served == [Change("load", "new", str(folder / "new")), Change("unload", "new")]


def names_after(history: list[Change]) -> list[tuple[str | None, str]]:
    """What a server with the models a and b serves after these changes, in order."""
    served: list[tuple[str | None, str]] = [("a", "/0"), ("b", "/0")]
    for change in history:
        place = next((index for index, (name, _) in enumerate(served) if name == change.name), None)
        if change.kind == "unload":
            if place is not None:
                del served[place]
        elif place is None:
            served.append((change.name, change.place))
        else:
            served[place] = (change.name, change.place)
    return served


def test_compacted_changes_lead_to_the_same_models() -> None:
    draw = random.Random(0)
    kinds: tuple[Literal["load", "unload"], ...] = ("load", "load", "unload")
    for _ in range(300):
        history = [Change(draw.choice(kinds), draw.choice("abcd"), f"/{turn}") for turn in range(12)]
        kept = compacted(history)
        assert names_after(kept) == names_after(history)
        assert all(len(list(group)) <= 2 for _, group in itertools.groupby(sorted(str(c.name) for c in kept)))


def test_a_worker_opens_what_the_others_serve(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = artifacts("minilm_like"), artifacts("bge_m3")
    gone = Path(shutil.copytree(first, tmp_path / "gone"))
    options, _ = parse(
        [str(first), str(gone), "--served-model-name", "main", f"old={gone}", "--allow-artifact-loading"]
    )
    settings = settings_of(options)
    prepared = prepare(options, settings)
    shutil.rmtree(gone)
    changes = [
        Change("load", "main", str(second)),
        Change("unload", "old"),
        Change("load", "new", str(first)),
    ]
    registry = models_from(prepared, settings, changes).registry
    assert [served.names for served in registry] == [("main",), ("new",)]
    registry.open()
    try:
        folders = {served.name: served.model.folder for served in registry}
        assert folders == {"main": second, "new": first}
        assert registry.find("bge_m3").name == "main"
    finally:
        registry.close()
    with pytest.raises(ArtifactError, match="nowhere"):
        models_from(prepared, settings, [Change("load", "x", str(tmp_path / "nowhere"))])
