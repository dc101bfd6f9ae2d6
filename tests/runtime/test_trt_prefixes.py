"""Texts behind a prefix on a simulated GPU: the numbers of whole texts, one copy of a prefix, and no longer
prefixes than an engine's profiles take."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poolrt.runtime import Model, load, loader
from poolrt.runtime.artifact.manifest import KEPT, PAST, PRESENT, Engine, Profile
from poolrt.runtime.artifact.reading import Artifact, read
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.prefix_stage import PrefixStage
from poolrt.runtime.batching.worker import Worker
from poolrt.runtime.engines import measured, ort, table, trt
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.engines.table import Choice
from poolrt.runtime.errors import EngineError
from poolrt.runtime.inputs.items import Item, Prefix

from tests.conftest import prefixed_reranker

from . import simulated_gpu
from .test_trt_session import COMPUTE, INWARD, OUTWARD, Gpu

CLOSE = 1e-5
"""Of a logit: a padded batch adds the same numbers in another order."""
LONGEST = 64
"""Tokens of the longest prefix."""
SHAPES = (
    Profile(smallest=(1, 1), best=(4, 32), largest=(16, 32)),
    Profile(smallest=(1, 1), best=(2, 32), largest=(4, 32), past=LONGEST),
    Profile(smallest=(1, 1), best=(2, 128), largest=(8, 320), past=LONGEST),
    Profile(smallest=(1, 1), best=(1, 32), largest=(1, LONGEST), past=LONGEST, returns_past=True),
)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return read(prefixed_reranker())


@pytest.fixture(autouse=True)
def _profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_gpu.Engine, "num_optimization_profiles", len(SHAPES))


@pytest.fixture(scope="module")
def exact(artifact: Artifact) -> Iterator[table.Session]:
    session = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"), threads=1)
    yield session
    session.close()


def compiled(artifact: Artifact) -> Engine:
    return Engine(
        backend="tensorrt-rtx",
        file="a.engine",
        graph=artifact.manifest.graph("text").file,
        device="sm89",
        version="1.0",
        precision="fp32",
        profiles=SHAPES,
    )


def opened(artifact: Artifact, gpu: Gpu, engine: Engine | None = None) -> trt.Session:
    graph = artifact.manifest.graph("text")
    plan = str(artifact.folder / graph.file).encode()
    return trt.Session(
        simulated_gpu.library(gpu.api),
        gpu,
        plan,
        engine or compiled(artifact),
        graph,
        pad_id=artifact.manifest.text.pad_id,
    )


def tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(5, 60, count).tolist()


class Run:
    """Runs items by the artifact's own feed."""

    def __init__(self, artifact: Artifact, session: Any) -> None:
        self.session = session
        self.feed = Feed(artifact.manifest.graph("text").inputs, pad_id=artifact.manifest.text.pad_id)
        self.output = artifact.manifest.heads["classify"].output

    def __call__(self, items: list[Item], *outputs: str) -> NDArray[np.float32]:
        return self.session.run(self.feed.arrays(items), outputs or [self.output])[0]

    def prefix(self, ids: list[int], before: Prefix | None = None) -> Prefix:
        present = self([Item(ids, prefix=before, returns_past=True)], PRESENT)[0]
        known = [] if before is None or before.past is None else [before.past]
        past = np.concatenate([*known, present], axis=2)
        assert past.shape[2] == len(ids)
        past.flags.writeable = False
        return Prefix(len(ids), past)


@pytest.mark.parametrize("first", [(), (INWARD,), (COMPUTE,), (OUTWARD,)], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 11])
def test_texts_behind_a_prefix_have_the_numbers_of_whole_texts(
    artifact: Artifact, exact: table.Session, rows: int, first: tuple[int, ...]
) -> None:
    """Also in several parts, which read one prefix, and behind a prefix that was computed in two runs."""
    run, session = Run(artifact, exact), opened(artifact, Gpu(seed=rows, first=first))
    behind = Run(artifact, session)
    for seed, (count, cut) in enumerate(((16, 0), (48, 16), (64, 23), (37, 0))):
        shared = tokens(count, seed)
        prefix = behind.prefix(shared, behind.prefix(shared[:cut]) if cut else None)
        texts = [shared + tokens(1 + 7 * row % 40, row) for row in range(rows)]
        expected = run([Item(text) for text in texts])
        for _ in range(2):  # captured, then replayed
            results = behind([Item(text, prefix=prefix) for text in texts])
            np.testing.assert_allclose(results, expected, atol=CLOSE)
        np.testing.assert_allclose(behind([Item(text) for text in texts]), expected, atol=CLOSE)
        assert np.abs(behind([Item(text[count:]) for text in texts]) - expected).max() > 100 * CLOSE
    session.close()


def test_keys_and_values_are_those_of_the_graph(artifact: Artifact, exact: table.Session) -> None:
    session = opened(artifact, Gpu())
    items = [Item(tokens(40, seed), returns_past=True) for seed in range(2)]
    for result, expected in zip(
        Run(artifact, session)(items, PRESENT), Run(artifact, exact)(items, PRESENT), strict=True
    ):
        np.testing.assert_allclose(result, expected, atol=CLOSE)
    session.close()


def copies(gpu: Gpu, size: int) -> int:
    """How many copies of so many bytes the device was told to make since the last time."""
    count = gpu.api.copied.count(size)
    gpu.api.copied.clear()
    return count


def test_a_prefix_is_copied_once_while_batches_read_it(artifact: Artifact) -> None:
    gpu = Gpu()
    session = opened(artifact, gpu)
    run = Run(artifact, session)
    one, other = (run.prefix(tokens(48, seed)) for seed in (1, 2))
    assert one.past is not None
    size = one.past.nbytes
    items = {
        prefix: [Item([*tokens(48, seed), 7, 8], prefix=prefix)] for seed, prefix in ((1, one), (2, other))
    }
    copies(gpu, size)
    first = [run(items[one]) for _ in range(3)]
    assert copies(gpu, size) == 1
    run([Item(tokens(9, 3))])  # a whole text between them
    assert copies(gpu, size) == 0
    run(items[one])
    assert copies(gpu, size) == 0
    run(items[other])
    last = run(items[one])
    assert copies(gpu, size) == 2
    np.testing.assert_array_equal(last, first[0])
    session.close()


def test_a_prefix_that_may_change_is_copied_each_time(artifact: Artifact, exact: table.Session) -> None:
    session, whole = opened(artifact, Gpu()), Run(artifact, exact)
    run = Run(artifact, session)
    computed = [run.prefix(tokens(32, seed)).past for seed in (1, 2)]
    assert computed[0] is not None
    changing = np.zeros_like(computed[0])
    for seed, past in enumerate(computed, 1):
        changing[:] = past
        result = run([Item([*tokens(32, seed), 7], prefix=Prefix(32, changing))])
        np.testing.assert_allclose(result, whole([Item([*tokens(32, seed), 7])]), atol=CLOSE)
    session.close()


def test_a_session_keeps_no_prefix_from_being_dropped(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    run = Run(artifact, session)
    prefix = run.prefix(tokens(32, 1))
    run([Item([*tokens(32, 1), 7], prefix=prefix)])
    assert prefix.past is not None
    dropped = weakref.ref(prefix.past)
    del prefix
    gc.collect()
    assert dropped() is None
    session.close()


def test_a_copy_that_fails_is_made_again(artifact: Artifact, exact: table.Session) -> None:
    gpu = Gpu()
    session = opened(artifact, gpu)
    run = Run(artifact, session)
    prefix = run.prefix(tokens(32, 1))
    items = [Item([*tokens(32, 1), 7, 9], prefix=prefix)]
    for succeed in range(6):
        gpu.api.refused["cudaMemcpyAsync"] = succeed
        try:
            run(items)
        except EngineError:
            continue
        break
    else:
        pytest.fail("a batch copies fewer than six tensors")
    gpu.api.refused.clear()
    np.testing.assert_allclose(run(items), Run(artifact, exact)([Item(items[0].ids)]), atol=CLOSE)
    session.close()


def test_buffers_are_as_large_as_one_prefix_needs(artifact: Artifact) -> None:
    """Keys and values are returned of one row, and no pinned memory holds what is read from elsewhere."""
    gpu = Gpu()
    session = opened(artifact, gpu)
    past = artifact.manifest.graph("text").past
    assert past is not None
    per_token = 4 * math.prod(axis for axis in past.axes if isinstance(axis, int))
    places = {place.name: place.bytes for place in session._places}
    assert places[PAST] == places[PRESENT] == LONGEST * per_token
    assert places[KEPT] == LONGEST * 8
    assert sorted(len(block) for block in gpu.api.memory.values()).count(LONGEST * per_token) == 2 * 3
    session.close()


def test_a_prefix_beyond_the_profiles_is_refused(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    prefix = Prefix(80, np.zeros((4, 2, 80, 32), np.float32))
    with pytest.raises(EngineError, match="compiled for prefixes of up to 64 tokens, found 80"):
        Run(artifact, session)([Item(tokens(90, 1), prefix=prefix)])
    session.close()


# --- models


@pytest.fixture
def whole(artifact: Artifact) -> Iterator[Model]:
    with load(artifact.folder, engine="onnxruntime", enable_prefix_caching=False) as model:
        yield model


@pytest.fixture
def served(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The artifact as if its engine fitted the GPU of this machine."""
    choice = Choice("tensorrt-rtx", artifact.manifest.graph("text"), compiled(artifact))
    monkeypatch.setattr(measured, "choose", lambda *_, **__: choice)
    monkeypatch.setattr(table, "open", lambda *_, **__: opened(artifact, Gpu()))
    with load(artifact.folder, engine="tensorrt-rtx") as model:
        yield model


QUERY = "what is mars"
DOCUMENTS = [f"{color} {what}" for color in ("red", "a", "the", "green", "in") for what in
             ("planet", "apple", "moon", "capital of france", "star", "paris")]  # fmt: skip


def test_a_model_serves_prefixes_by_an_engine(served: Model, whole: Model) -> None:
    expected = [output.outputs.score for output in whole.score(QUERY, DOCUMENTS)]
    for known in (False, True):
        outputs = served.score(QUERY, DOCUMENTS)
        np.testing.assert_allclose([output.outputs.score for output in outputs], expected, atol=CLOSE)
        cached = outputs[0].num_cached_tokens if known else outputs[1].num_cached_tokens
        assert cached == LONGEST, "the beginning is longer than the longest prefix"
    assert served.statistics().prefix_caching


def test_a_prefix_that_saves_less_than_a_launch_is_not_begun(served: Model) -> None:
    outputs = served.score(QUERY, DOCUMENTS[:3])
    assert [output.num_cached_tokens for output in outputs] == [0, 0, 0]
    assert served.statistics().prefix_bytes == 0


def test_prefixes_of_engines_are_multiples_of_16_tokens(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    graph = artifact.manifest.graph("text")
    limits = BatchLimits(max_tokens=256, launch_tokens=16, profiles=SHAPES)
    worker = Worker(session, feed=Feed(graph.inputs), limits=limits)
    output = artifact.manifest.heads["classify"].output
    stage = PrefixStage(worker, {output}, 1 << 20, most_tokens=48)
    for count, length in ((16, 16), (15, 0), (47, 32), (48, 48), (63, 48)):
        items = [Item(tokens(count, count) + tokens(20, 100 + row)) for row in range(6)]
        stage.submit(items, output).result(timeout=60)
        assert (0 if items[0].prefix is None else items[0].prefix.tokens) == length
    worker.close()


def test_only_profiles_that_take_the_prefix_bound_a_batch() -> None:
    limits = BatchLimits(max_tokens=1 << 14, launch_tokens=1024, profiles=SHAPES)
    assert limits.rows(20) == 16
    assert replace(limits, prefix=48).rows(20) == 8


@pytest.mark.parametrize("takes", [True, False], ids=["behind", "whole"])
def test_an_engine_without_such_profiles_takes_none(
    artifact: Artifact, takes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = SHAPES if takes else tuple(replace(shape, past=0, returns_past=False) for shape in SHAPES)
    engine, graph = replace(compiled(artifact), profiles=shapes), artifact.manifest.graph("text")
    choice = Choice("tensorrt-rtx", graph, engine)
    assert loader._has_prefixes(artifact.manifest, choice, True) == takes
    assert ("a.engine takes none" in caplog.text) == (not takes)
    assert engine.past == (LONGEST if takes else 0)
    assert (engine.reads(graph) == graph) == takes
    assert [tensor.name for tensor in engine.reads(graph).inputs].count(PAST) == takes
