"""Our side of running an engine, on a simulated GPU: buffers, padding, capture, replay, eviction, release."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poolrt.exporter.profiles import profiles
from poolrt.runtime.artifact.manifest import Engine, Graph, GraphRole, Profile
from poolrt.runtime.artifact.reading import Artifact, read
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.worker import Worker
from poolrt.runtime.engines import ort, trt
from poolrt.runtime.engines.cuda import Cuda
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import EngineError
from poolrt.runtime.inputs.items import Item

from . import picture_models, simulated_gpu

SHAPES = (
    Profile(smallest=(1, 1), best=(4, 16), largest=(16, 16)),
    Profile(smallest=(1, 1), best=(2, 64), largest=(4, 64)),
)
SUMS = 1e-5  # the padded batch adds the same numbers in another order


INWARD, COMPUTE, OUTWARD = STREAMS = (7, 8, 9)
"""As the simulated device names them, in the order in which a session opens them."""


class Gpu(Cuda):
    def __init__(self, seed: int = 0, first: tuple[int, ...] = ()) -> None:
        self.api = simulated_gpu.Cuda(seed, first)


@pytest.fixture
def artifact(artifacts: Callable[[str], Path]) -> Artifact:
    return read(artifacts("minilm_like"))


def opened(
    artifact: Artifact,
    gpu: Gpu,
    *,
    graphs: int = 8,
    shapes: tuple[Profile, ...] = SHAPES,
    role: GraphRole = "text",
) -> trt.Session:
    graph = artifact.manifest.graph(role)
    engine = Engine(
        backend="tensorrt-rtx",
        file="a.engine",
        graph=graph.file,
        device="sm89",
        version="1.0",
        precision="fp32",
        profiles=shapes,
    )
    plan = str(artifact.folder / graph.file).encode()
    return trt.Session(
        simulated_gpu.library(gpu.api),
        gpu,
        plan,
        engine,
        graph,
        pad_id=artifact.manifest.text.pad_id,
        merged=4,
        graphs=graphs,
    )


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    mask = (np.arange(tokens) < generator.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
    ids = np.where(mask == 1, generator.integers(5, 90, (rows, tokens)), 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 7), (16, 16), (2, 17), (5, 60), (33, 9)], ids=str)
def test_padding_capture_and_splitting_change_no_number(artifact: Artifact, rows: int, tokens: int) -> None:
    gpu = Gpu(seed=rows)
    session = opened(artifact, gpu)
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    names = ["out_token_embed", "out_embed"]
    for seed in range(3):  # captured, then replayed with other numbers
        feed = batch(rows, tokens, seed)
        for found, expected in zip(session.run(feed, names), exact.run(feed, names), strict=True):
            assert (found.shape, found.dtype) == (expected.shape, np.float32)
            attended = feed["attention_mask"] == 1 if found.ndim == 3 else slice(None)
            np.testing.assert_allclose(found[attended], expected[attended], atol=SUMS)
    assert gpu.api.launched >= 3
    session.close()
    exact.close()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return read(picture_models.write(tmp_path_factory.mktemp("seeing")))


def texts_with_pictures(rows: int, tokens: int, seed: int) -> dict[str, NDArray[Any]]:
    """A batch in which most tokens of most rows stand for features; the last row has none."""
    generator = np.random.default_rng(seed)
    marked = generator.random((rows, tokens)) < 0.7
    marked[-1] = False
    index = np.where(marked, marked.cumsum().reshape(rows, tokens), 0)
    features = generator.normal(size=(1 + int(marked.sum()), picture_models.WIDTH)).astype(np.float32)
    features[0] = 0
    ids = generator.integers(0, len(picture_models.TABLE), (rows, tokens))
    positions = generator.integers(0, 50, (rows, 3, tokens))
    return {
        "input_ids": ids, "attention_mask": np.ones_like(ids), "features": features, "feature_index": index,
        "position_ids": positions,
    }  # fmt: skip


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 7), (16, 16), (5, 60), (33, 9)], ids=str)
def test_features_of_a_batch_reach_their_rows(seeing: Artifact, rows: int, tokens: int) -> None:
    """Also where a batch is split, and each part reads its own features."""
    session = opened(seeing, Gpu())
    exact = ort.open(seeing.folder, seeing.manifest, seeing.manifest.graph("text"))
    for seed in range(2):
        feed = texts_with_pictures(rows, tokens, seed)
        names = ["out_tokens", "out_embed"]
        for found, expected in zip(session.run(feed, names), exact.run(feed, names), strict=True):
            np.testing.assert_allclose(found, expected, atol=SUMS)
    session.close()
    exact.close()


@pytest.mark.parametrize(("rows", "patches"), [(1, 4), (3, 12), (16, 16), (2, 60), (20, 8)], ids=str)
def test_patches_become_features_in_an_engine(seeing: Artifact, rows: int, patches: int) -> None:
    session = opened(seeing, Gpu(), role="vision")
    exact = ort.open(seeing.folder, seeing.manifest, seeing.manifest.graph("vision"))
    generator = np.random.default_rng(rows)
    feed = {
        "pixel_values": generator.normal(size=(rows, patches, picture_models.VALUES)).astype(np.float32),
        "patch_positions": generator.integers(0, 9, (rows, patches, 4)),
        "patch_mask": np.ones((rows, patches), np.int64),
    }
    (found,), (expected,) = session.run(feed, ["features"]), exact.run(feed, ["features"])
    assert found.shape == (rows, patches // 4, picture_models.WIDTH)
    np.testing.assert_allclose(found, expected, atol=SUMS)
    with pytest.raises(EngineError, match="up to 64 patches, found 68"):
        session.run({name: np.repeat(array, 17, 1)[:, :68] for name, array in feed.items()}, ["features"])
    session.close()
    exact.close()


def test_pictures_of_one_size_have_rows_alone(tmp_path: Path) -> None:
    apart = read(picture_models.write(tmp_path, images=picture_models.APART))
    shapes = tuple(Profile(smallest=(1, 4), best=(1, 4), largest=(most, 4)) for most in (2, 8))
    session = opened(apart, Gpu(), role="vision", shapes=shapes)
    exact = ort.open(apart.folder, apart.manifest, apart.manifest.graph("vision"))
    for rows in (1, 3, 8, 19):
        feed = {"pixel_values": np.random.default_rng(rows).normal(size=(rows, 3, 8, 8)).astype(np.float32)}
        (found,), (expected,) = session.run(feed, ["out_embed"]), exact.run(feed, ["out_embed"])
        np.testing.assert_allclose(found, expected, atol=SUMS)
    session.close()
    exact.close()


def test_an_answer_is_not_overwritten_by_the_next_batch(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    (first,) = session.run(batch(2, 8, 0), ["out_embed"])
    kept = first.copy()
    session.run(batch(2, 8, 1), ["out_embed"])
    np.testing.assert_array_equal(first, kept)
    session.close()


def test_graphs_are_captured_once_per_bucket_and_evicted_beyond_the_cap(artifact: Artifact) -> None:
    gpu = Gpu()
    session = opened(artifact, gpu, graphs=2)
    for tokens in (9, 12, 16):
        session.run(batch(2, tokens), ["out_embed"])
    assert (len(session.graphs), len(gpu.api.graphs)) == (1, 1)
    memory = len(gpu.api.memory)
    for tokens in (8, 24, 40):
        session.run(batch(2, tokens), ["out_embed"])
    assert (len(session.graphs), len(gpu.api.graphs), session.graphs.released) == (2, 2, 2)
    assert len(gpu.api.memory) == memory, "a new shape takes no memory"
    session.close()


def test_what_cannot_be_captured_is_launched_each_time(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        simulated_gpu.Context, "is_stream_capturable", lambda _, stream: asked.append(stream), raising=False
    )
    gpu = Gpu()
    session = opened(artifact, gpu)
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    for seed in range(2):
        feed = batch(3, 8, seed)
        (found,), (expected,) = session.run(feed, ["out_embed"]), exact.run(feed, ["out_embed"])
        np.testing.assert_allclose(found, expected, atol=SUMS)
    assert (asked, gpu.api.launched, gpu.api.graphs) == ([COMPUTE], 0, {})
    session.close()
    exact.close()


def test_a_call_of_cuda_returns_what_it_makes() -> None:
    gpu = Gpu()
    for code, made in (((), None), ((1,), 1), ((1, 2), [1, 2])):
        gpu.api.asked = lambda *arguments, code=code: (simulated_gpu.OK, *code)  # type: ignore[attr-defined]
        assert gpu("asked") == made
    gpu.api.asked = lambda: (simulated_gpu.cudaError_t.cudaErrorInvalidValue, 1)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=r"asked: cudaErrorInvalidValue \(simulated\)"):
        gpu("asked")


def test_closing_gives_everything_back(artifact: Artifact) -> None:
    gpu = Gpu()
    session = opened(artifact, gpu)
    session.run(batch(2, 8), ["out_embed"])
    session.close()
    assert (gpu.api.memory, gpu.api.graphs, gpu.api.streams, gpu.api.events) == ({}, {}, {}, {})
    session.close()


def test_what_an_engine_cannot_do_is_told(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    with pytest.raises(EngineError, match="compiled for up to 64 tokens, found 65"):
        session.run(batch(1, 65), ["out_embed"])
    with pytest.raises(EngineError, match="no output 'out_nothing'; it has out_embed, out_token_embed"):
        session.run(batch(1, 8), ["out_nothing"])
    session.close()


def test_an_engine_with_other_profiles_than_the_manifest_tells_is_refused(artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="2 profiles, the manifest tells 4"):
        opened(artifact, Gpu(), shapes=profiles(2048))


def test_an_engine_the_library_does_not_open_is_told(artifact: Artifact) -> None:
    gpu = Gpu()
    engine = Engine(
        backend="tensorrt-rtx",
        file="a.engine",
        graph="model.onnx",
        device="sm89",
        version="1.0",
        precision="fp32",
        profiles=SHAPES,
    )
    graph = Graph(file="model.onnx", precision="fp32", opset=20, inputs=(), outputs=())
    with pytest.raises(EngineError, match=r"a\.engine: tensorrt-rtx does not open it"):
        trt.Session(simulated_gpu.library(gpu.api), gpu, b"", engine, graph, pad_id=0)


# Copies beside computation: two sets of buffers, three streams


@pytest.mark.parametrize("first", [(), (INWARD,), (COMPUTE,), (OUTWARD,), (INWARD, OUTWARD)], ids=str)
def test_no_order_that_events_allow_changes_a_number(artifact: Artifact, first: tuple[int, ...]) -> None:
    """Whichever stream is ahead: a batch in four parts through two sets of buffers, and others behind it."""
    names = ["out_embed", "out_token_embed"]
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    session = opened(artifact, Gpu(seed=len(first), first=first))
    for seed, rows in enumerate((14, 3, 14)):
        feed = batch(rows, 33, seed)
        for result, expected in zip(session.run(feed, names), exact.run(feed, names), strict=True):
            attended = feed["attention_mask"] == 1 if result.ndim == 3 else slice(None)
            np.testing.assert_allclose(result[attended], expected[attended], atol=SUMS)
    session.close()
    exact.close()


def test_the_next_batch_is_copied_while_this_one_computes(artifact: Artifact) -> None:
    gpu = Gpu(first=(INWARD, OUTWARD))
    session = opened(artifact, gpu)
    feed = batch(8, 33)  # two parts of 4
    session.run(feed, ["out_embed"])
    gpu.api.log.clear()
    gpu.api.done.clear()
    session.run(feed, ["out_embed"])
    sent = [f"copy in in {INWARD}"] * len(feed)
    part = [
        *sent, f"record {{}} in {INWARD}", f"await {{}} in {COMPUTE}", f"compute in {COMPUTE}",
        f"record {{}} in {COMPUTE}", f"await {{}} in {OUTWARD}", f"copy out in {OUTWARD}",
        f"record {{}} in {OUTWARD}",
    ]  # fmt: skip
    events = [(100, 100, 101, 101, 102), (103, 103, 104, 104, 105)]
    expected: list[str] = []
    for numbers in events:
        left = iter(numbers)
        expected += [step.format(next(left)) if "{}" in step else step for step in part]
    # Both parts are on their way before the host waits for the first.
    assert gpu.api.log == [*expected, "wait for event 102", "wait for event 105"]
    # The device copied the second part's inputs before it computed the first.
    assert gpu.api.done[: 2 * len(feed) + 2].count(sent[0]) == 2 * len(feed)
    session.close()


def test_two_callers_overlap_and_get_their_own_answers(artifact: Artifact) -> None:
    """While one waits for its batch, the other puts the next one into the streams."""
    gpu = Gpu()
    session = opened(artifact, gpu)
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    assert session.lanes == 2
    feeds = [batch(2, 8, 1), batch(3, 8, 2)]
    expected = [exact.run(feed, ["out_embed"])[0] for feed in feeds]
    both = threading.Barrier(2, timeout=60)

    class Waiting(type(gpu)):
        def __call__(self, function: str, *arguments: Any) -> Any:
            if function == "cudaEventSynchronize":
                both.wait()  # the batches of both callers are in the streams
            return super().__call__(function, *arguments)

    gpu.__class__ = Waiting
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda feed: session.run(feed, ["out_embed"])[0], feeds))
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, atol=SUMS)
    session.close()
    exact.close()


def test_one_caller_alone_stays_in_the_first_set(artifact: Artifact) -> None:
    gpu = Gpu()
    session = opened(artifact, gpu)
    for seed in range(3):
        session.run(batch(2, 8, seed), ["out_embed"])
    assert (len(session.graphs), len(gpu.api.graphs)) == (1, 1)
    session.close()


def test_a_graph_that_is_running_is_not_released(artifact: Artifact) -> None:
    """The second part has another shape, and there is room for one graph."""
    session = opened(artifact, Gpu(), graphs=1)
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    feed = batch(5, 33)
    np.testing.assert_allclose(
        session.run(feed, ["out_embed"])[0], exact.run(feed, ["out_embed"])[0], atol=SUMS
    )
    assert session.graphs.released == 1
    session.close()
    exact.close()


def test_many_callers_of_split_batches_do_not_wait_for_each_other(artifact: Artifact) -> None:
    session = opened(artifact, Gpu(), graphs=2)  # graphs are released while others run
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    feeds = [batch(rows, tokens, rows) for rows, tokens in ((9, 33), (5, 60), (13, 20), (2, 8), (17, 16))]
    with ThreadPoolExecutor(5) as threads:
        results = list(threads.map(lambda feed: session.run(feed, ["out_embed"])[0], feeds * 2, timeout=120))
    for result, feed in zip(results, feeds * 2, strict=True):
        np.testing.assert_allclose(result, exact.run(feed, ["out_embed"])[0], atol=SUMS)
    session.close()
    exact.close()


FAILING = {
    "cudaMemcpyAsync": (0, 2, 4),
    "cudaEventRecord": (0, 2, 3),
    "cudaStreamWaitEvent": (0, 3),
    "cudaGraphLaunch": (0, 1),
    "cudaEventSynchronize": (0, 1),
    "cudaGraphInstantiate": (0,),
    "cudaStreamEndCapture": (0,),
}
"""Function -> how many of its calls succeed before one fails."""


@pytest.mark.parametrize(
    ("function", "succeed"),
    [(function, number) for function, numbers in FAILING.items() for number in numbers],
    ids=str,
)
def test_a_failure_leaves_the_session_usable(artifact: Artifact, function: str, succeed: int) -> None:
    """Both sets of buffers are free again, and nothing that is on its way touches them."""
    gpu = Gpu()
    session = opened(artifact, gpu)
    feed = batch(8, 33)  # two parts
    gpu.api.refused[function] = succeed
    with pytest.raises(EngineError, match=f"{function}: cudaErrorInvalidValue"):
        session.run(feed, ["out_embed"])
    assert not gpu.api.refused, "the call failed"
    assert not any(gpu.api.streams.values())
    exact = ort.open(artifact.folder, artifact.manifest, artifact.manifest.graph("text"))
    for seed in (1, 2):
        feed = batch(8, 33, seed)
        np.testing.assert_allclose(
            session.run(feed, ["out_embed"])[0], exact.run(feed, ["out_embed"])[0], atol=SUMS
        )
    assert session._free.qsize() == 2
    session.close()
    exact.close()


def test_large_buffers_are_held_once(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    for bound in (1 << 30, 1 << 10):
        monkeypatch.setattr(trt, "DOUBLE_BYTES", bound)
        gpu = Gpu()
        session = opened(artifact, gpu)
        sizes.append(len(gpu.api.memory))
        (result,) = session.run(batch(9, 33), ["out_embed"])
        assert result.shape[0] == 9
        session.close()
    tensors = 5
    assert sizes == [1 + 2 * 2 * tensors, 1 + 2 * tensors]


def test_a_worker_has_a_lane_for_each_set(artifact: Artifact) -> None:
    session = opened(artifact, Gpu())
    graph = artifact.manifest.graph("text")
    limits = BatchLimits(max_tokens=64, launch_tokens=8, profiles=SHAPES)
    worker = Worker(session, feed=Feed(graph.inputs), limits=limits)
    exact = ort.open(artifact.folder, artifact.manifest, graph)
    items = [Item(ids=list(range(5, 5 + length))) for length in range(1, 40)]
    tickets = [worker.submit(items[start::4], "out_embed") for start in range(4)]
    for start, ticket in enumerate(tickets):
        for row, item in zip(ticket.result(timeout=120).rows, items[start::4], strict=True):
            alone = exact.run(Feed(graph.inputs).arrays([item]), ["out_embed"])[0][0]
            np.testing.assert_allclose(row, alone, atol=SUMS)
    worker.close()
    exact.close()
