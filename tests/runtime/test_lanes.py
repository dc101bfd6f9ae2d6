"""The session of batches that run alone, which is opened when several such batches have come."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact import reading
from poolrt.runtime.engines import lanes, ort, table
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import EngineError
from poolrt.runtime.inputs.items import Item

SOON_S = 30
SUMS = 1e-6  # the same products, added in another order


class Opening:
    """Opens a session as soon as a test lets it."""

    def __init__(self, error: EngineError | None = None) -> None:
        self.error, self.count = error, 0
        self.may, self.thread = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> str:
        self.count += 1
        self.threads.append(threading.current_thread())
        self.thread.set()
        assert self.may.wait(SOON_S)
        if self.error is not None:
            raise self.error
        return "a session"

    def finish(self) -> None:
        self.may.set()
        assert self.thread.wait(SOON_S)
        for thread in self.threads:
            thread.join(SOON_S)


def wanted(later: lanes.Later[str], times: int = lanes.AFTER + 1) -> set[str | None]:
    return {later.get() for _ in range(times)}


def test_it_is_opened_once_by_a_thread_that_the_interpreter_waits_for():
    opening = Opening()
    later = lanes.Later(opening)
    assert wanted(later, lanes.AFTER) == {None}
    assert opening.count == 0
    answers: set[str | None] = set()
    # The worker's threads are daemons. Threads inherit that.
    caller = threading.Thread(target=lambda: answers.update(wanted(later)), daemon=True)
    caller.start()
    caller.join(SOON_S)
    assert answers == {None}
    opening.finish()
    assert not opening.threads[0].daemon
    assert later.get() == "a session"
    assert opening.count == 1


def test_at_once_it_is_open_from_the_start():
    assert lanes.Later(lambda: 7, at_once=True).get() == 7
    opening = Opening(EngineError("no memory"))
    opening.may.set()
    with pytest.raises(EngineError, match="no memory"):
        lanes.Later(opening, at_once=True)


def test_one_that_cannot_be_opened_is_done_without(caplog):
    opening = Opening(EngineError("no memory"))
    later = lanes.Later(opening)
    assert wanted(later) == {None}
    opening.finish()
    assert wanted(later) == {None}
    assert opening.count == 1
    assert "no memory" in caplog.text


def test_one_that_is_closed_while_it_opens_holds_nothing():
    opening = Opening()
    later = lanes.Later(opening)
    assert wanted(later) == {None}
    later.close()
    opening.finish()
    assert later.get() is None
    unused = Opening()
    closed = lanes.Later(unused)
    closed.close()
    assert wanted(closed) == {None}
    assert unused.count == 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_session_answers_alike_before_and_after(artifacts, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    folder = artifacts("minilm_like")
    manifest = reading.read(folder).manifest
    choice = table.choose(manifest, engine)
    items = [Item(ids=list(range(5, 5 + length))) for length in (20, 44)]
    arrays = Feed(choice.graph.inputs, pad_id=manifest.text.pad_id).arrays(items)
    first = table.open(folder, manifest, choice, threads=2)
    whole = table.open(folder, manifest, choice, threads=2, at_once=True)
    rows = [session.run(arrays, ["out_embed"], alone=True)[0] for session in (first, whole)]
    np.testing.assert_allclose(rows[0], rows[1], atol=SUMS)
    first.close()
    whole.close()


def test_large_weights_are_used_as_they_lie_until_they_are_arranged(artifacts, monkeypatch):
    monkeypatch.setattr(ort, "ARRANGED_BYTES", 0)
    folder = artifacts("minilm_like")
    manifest = reading.read(folder).manifest
    choice = table.choose(manifest, "onnxruntime")
    arrays = Feed(choice.graph.inputs, pad_id=manifest.text.pad_id).arrays([Item(ids=list(range(5, 40)))])
    opened: list[dict[str, str]] = []
    inner = ort._opened

    def noted(*arguments: Any) -> Any:
        opened.append(arguments[5] if len(arguments) > 5 else {})
        return inner(*arguments)

    monkeypatch.setattr(ort, "_opened", noted)
    session = ort.open(folder, manifest, choice.graph, threads=1)
    assert opened == [ort.PLAIN]
    first = session.run(arrays, ["out_embed"])[0]
    assert opened == [ort.PLAIN]
    plain = session._session
    rows = [session.run(arrays, ["out_embed"])[0]]
    for thread in threading.enumerate():
        if thread.name == "poolrt-later":
            thread.join(SOON_S)
    rows.append(session.run(arrays, ["out_embed"])[0])
    assert opened == [ort.PLAIN, {}]
    assert session._session is not plain
    for row in rows:
        np.testing.assert_allclose(row, first, atol=SUMS)
    session.close()
