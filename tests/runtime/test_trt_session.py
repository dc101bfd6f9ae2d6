"""Our side of running an engine, on a simulated GPU: buffers, padding, capture, replay, eviction, release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from poolrt.exporter.engine import profiles
from poolrt.runtime.artifact.manifest import Engine, Profile
from poolrt.runtime.artifact.reading import Artifact, read
from poolrt.runtime.engines import ort, trt
from poolrt.runtime.engines.cuda import Cuda
from poolrt.runtime.errors import EngineError

from . import simulated_gpu

SHAPES = (
    Profile(smallest=(1, 1), best=(4, 16), largest=(16, 16)),
    Profile(smallest=(1, 1), best=(2, 64), largest=(4, 64)),
)
SUMS = 1e-5  # the padded batch adds the same numbers in another order


class Gpu(Cuda):
    def __init__(self) -> None:
        self.api = simulated_gpu.Cuda()


@pytest.fixture
def artifact(artifacts: Callable[[str], Path]) -> Artifact:
    return read(artifacts("minilm_like"))


def opened(
    artifact: Artifact, gpu: Gpu, *, graphs: int = 8, shapes: tuple[Profile, ...] = SHAPES
) -> trt.Session:
    graph = artifact.manifest.graph("text")
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
        simulated_gpu.library(gpu.api), gpu, plan, engine, pad_id=artifact.manifest.text.pad_id, graphs=graphs
    )


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    mask = (np.arange(tokens) < generator.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
    ids = np.where(mask == 1, generator.integers(5, 90, (rows, tokens)), 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 7), (16, 16), (2, 17), (5, 60), (33, 9)], ids=str)
def test_padding_capture_and_splitting_change_no_number(artifact: Artifact, rows: int, tokens: int) -> None:
    gpu = Gpu()
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
    assert (asked, gpu.api.launched, gpu.api.graphs) == ([7], 0, {})
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
    assert (gpu.api.memory, gpu.api.graphs, gpu.api.streams) == ({}, {}, set())
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
    with pytest.raises(EngineError, match=r"a\.engine: tensorrt-rtx does not open it"):
        trt.Session(simulated_gpu.library(gpu.api), gpu, b"", engine, pad_id=0)
