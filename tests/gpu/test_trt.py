"""TensorRT engines on a real GPU: the same numbers as ONNX Runtime, graphs per bucket, flat
memory, clear mismatches."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poolrt.exporter import pipeline
from poolrt.exporter.proof.evidence import TOLERANCES
from poolrt.runtime import load, machine
from poolrt.runtime.artifact.reading import Artifact, read
from poolrt.runtime.engines import ort, trt, trt_library
from poolrt.runtime.engines.cuda import Cuda
from poolrt.runtime.errors import EngineError

from tests.conftest import prefixed_reranker

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not machine.gpus(), reason="no NVIDIA GPU")]

BACKENDS = ["tensorrt-rtx", "tensorrt"]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    try:
        trt_library.library(request.param)
    except EngineError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def built(
    artifacts: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Artifact:
    """The tiny MiniLM with an fp32 engine for the GPU of this machine."""
    folder = shutil.copytree(artifacts("minilm_like"), tmp_path_factory.mktemp("gpu") / "minilm")
    pipeline.build(folder, target=[backend])
    return read(folder)


@pytest.fixture
def opened(built: Artifact) -> Iterator[trt.Session]:
    session = trt.open(built.folder, built.manifest, built.manifest.engines[0])
    yield session
    session.close()


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    mask = (np.arange(tokens) < generator.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
    ids = np.where(mask == 1, generator.integers(5, 90, (rows, tokens)), 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def agree(found: list[Any], expected: list[Any], mask: NDArray[np.int64], cosine: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.float32
        a, b = ((x[mask == 1] if x.ndim == 3 else x).astype(np.float64) for x in (one, other))
        assert (
            (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        ).min() >= cosine


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 64), (3, 17), (7, 33), (8, 8), (300, 5)], ids=str)
def test_an_engine_answers_as_onnxruntime_does(
    built: Artifact, opened: trt.Session, rows: int, tokens: int
) -> None:
    graph, feed = built.manifest.graph("text"), batch(rows, tokens)
    names = [tensor.name for tensor in graph.outputs]
    exact = ort.open(built.folder, built.manifest, graph)
    for _ in range(3):  # captured, then replayed
        agree(
            opened.run(feed, names), exact.run(feed, names), feed["attention_mask"], TOLERANCES["fp32"].cosine
        )
    exact.close()


def test_a_16_bit_engine_is_within_its_tolerance(
    checkpoints: Callable[[str], Path], tmp_path: Path, backend: str
) -> None:
    made = pipeline.export(
        checkpoints("minilm_like"), name="half", out=tmp_path, precision="fp16", target=[backend]
    )
    (engine,) = made.engines
    assert {each.task for each in made.evidence if each.engine == engine} == {"embed", "token_embed"}


def test_one_graph_is_captured_per_bucket(opened: trt.Session) -> None:
    for tokens in (9, 12, 16, 10):
        opened.run(batch(2, tokens), ["out_embed"])
    assert len(opened.graphs) == 1
    opened.run(batch(3, 16), ["out_embed"])
    assert len(opened.graphs) == 2


def test_beyond_the_cap_graphs_are_released_and_answers_stay_right(built: Artifact) -> None:
    engine = built.manifest.engines[0]
    plan = (built.folder / engine.file).read_bytes()
    session = trt.Session(
        trt_library.library(engine.backend),
        Cuda(),
        plan,
        engine,
        built.manifest.graph("text"),
        pad_id=built.manifest.text.pad_id,
        graphs=2,
    )
    first = session.run(batch(1, 8), ["out_embed"])[0]
    for tokens in (16, 24, 32, 40):
        session.run(batch(1, tokens), ["out_embed"])
    assert len(session.graphs) == 2
    assert session.graphs.released == 3
    np.testing.assert_array_equal(session.run(batch(1, 8), ["out_embed"])[0], first)
    session.close()


def test_callers_at_once_get_their_own_answers(built: Artifact, opened: trt.Session) -> None:
    """Copies of one batch beside the computation of another, in both sets of buffers."""
    exact = ort.open(built.folder, built.manifest, built.manifest.graph("text"))
    feeds = [
        batch(rows, tokens, rows) for rows, tokens in ((1, 8), (7, 33), (64, 64), (300, 5), (33, 60))
    ] * 8
    with ThreadPoolExecutor(opened.lanes + 1) as threads:
        results = list(threads.map(lambda feed: opened.run(feed, ["out_embed"]), feeds))
    for feed, result in zip(feeds, results, strict=True):
        expected = exact.run(feed, ["out_embed"])
        agree(result, expected, feed["attention_mask"], TOLERANCES["fp32"].cosine)
    exact.close()


def test_memory_is_flat_however_shapes_vary(opened: trt.Session) -> None:
    cuda, generator = Cuda(), np.random.default_rng(0)
    for rows, tokens in ((1, 64), (64, 64)):
        opened.run(batch(rows, tokens), ["out_embed"])
    free = cuda("cudaMemGetInfo")[0]
    for _ in range(100):
        opened.run(
            batch(int(generator.integers(1, 65)), int(generator.integers(1, 65))),
            ["out_embed", "out_token_embed"],
        )
    # Executable graphs themselves take a little device memory, at most `graphs` times.
    assert free - cuda("cudaMemGetInfo")[0] < 64 << 20


def test_what_does_not_fit_is_said_exactly(built: Artifact) -> None:
    engine = built.manifest.engines[0]
    for changed, told in (
        ({"device": "sm42"}, "compiled for sm42, this GPU is"),
        ({"version": "0.1"}, "0.1, installed is"),
    ):
        with pytest.raises(EngineError, match=told):
            trt.open(built.folder, built.manifest, dataclasses.replace(engine, **changed))


def test_more_tokens_than_it_was_compiled_for_are_told(opened: trt.Session) -> None:
    with pytest.raises(EngineError, match="compiled for up to 64 tokens, found 65"):
        opened.run(batch(1, 65), ["out_embed"])


def test_an_unknown_output_is_told(opened: trt.Session) -> None:
    with pytest.raises(EngineError, match="no output 'out_nothing'"):
        opened.run(batch(1, 8), ["out_nothing"])


def test_texts_behind_a_prefix_have_the_scores_of_whole_texts(tmp_path: Path, backend: str) -> None:
    """First asked, and from what was kept; a session copies one prefix for several batches."""
    folder = shutil.copytree(prefixed_reranker(), tmp_path / "reranker")
    pipeline.build(folder, target=[backend])
    (engine,) = read(folder).manifest.engines
    assert engine.past == 1008
    colors = ("red", "a", "the", "green", "in")
    documents = [
        f"{color} {what}" for color in colors for what in ("planet", "apple", "moon", "star", "paris")
    ]
    with load(folder, engine="onnxruntime", enable_prefix_caching=False) as exact:
        expected = [output.outputs.score for output in exact.score("what is mars", documents)]
    with load(folder, engine=engine.file) as model:
        for place in (1, 0):
            outputs = model.score("what is mars", documents)
            scores = [output.outputs.score for output in outputs]
            np.testing.assert_allclose(scores, expected, atol=TOLERANCES["fp32"].difference)
            assert outputs[place].num_cached_tokens >= 48
            assert outputs[place].num_cached_tokens % 16 == 0
