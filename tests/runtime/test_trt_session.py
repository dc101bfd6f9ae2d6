"""Our side of running an engine, on a simulated GPU: buffers, padding, capture, replay, eviction, release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poolrt.exporter.engine import profiles
from poolrt.runtime.artifact.manifest import Engine, Graph, GraphRole, Profile
from poolrt.runtime.artifact.reading import Artifact, read
from poolrt.runtime.engines import ort, trt
from poolrt.runtime.engines.cuda import Cuda
from poolrt.runtime.errors import EngineError

from . import picture_models, simulated_gpu

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
    graph = Graph(file="model.onnx", precision="fp32", opset=20, inputs=(), outputs=())
    with pytest.raises(EngineError, match=r"a\.engine: tensorrt-rtx does not open it"):
        trt.Session(simulated_gpu.library(gpu.api), gpu, b"", engine, graph, pad_id=0)
