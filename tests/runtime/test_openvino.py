"""Artifacts computed by OpenVINO, beside the graph that export proved, and which engine `auto` takes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from poolrt.exporter.base.artifact import write_golden
from poolrt.runtime import cache_folder, load, machine
from poolrt.runtime.artifact import reading
from poolrt.runtime.engines import blobs, measured, openvino, table, trial
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import EngineError
from poolrt.runtime.inputs.items import Item

import tests.checkpoints as tiny

from . import picture_models

FP32 = 1e-6  # 1 - cosine; the same sums in another order
LOGIT = 5e-5  # the tolerance of fp32 at export (exporter/proof/evidence.py)
BF16 = 5e-3  # 1 - cosine of tiny models, whose weights are scaled up; MiniLM is at 3e-5
GROWTH_BYTES = 64 << 20  # 300 shapes behind a first 300: measured 10 MB, without a bound of kernels 300 MB


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Compiled graphs and choices of a test, in a folder of its own."""
    monkeypatch.setenv(cache_folder.FOLDER, str(tmp_path / "engines"))
    monkeypatch.delenv(measured.VARIABLE, raising=False)
    return tmp_path / "engines"


def items_of(*lengths: int, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [Item(ids=[int(token) for token in rng.integers(5, 100, length)]) for length in lengths]


def outputs_of(folder: Path, engine: str, items) -> dict[str, np.ndarray]:
    manifest = reading.read(folder).manifest
    choice = table.choose(manifest, engine)
    session = table.open(folder, manifest, choice, threads=1)
    names = sorted({head.output for head in manifest.heads.values()})
    try:
        arrays = Feed(choice.graph.inputs, pad_id=manifest.text.pad_id).arrays(items)
        return dict(zip(names, session.run(arrays, names), strict=True))
    finally:
        session.close()


@pytest.mark.parametrize("name", sorted(tiny.ALL))
def test_every_tiny_model_gives_the_proven_graphs_answers(artifacts, name):
    folder = artifacts(name)
    manifest, items = reading.read(folder).manifest, trial.golden(artifacts(name))
    ours, theirs = (outputs_of(folder, engine, items) for engine in ("openvino:fp32", "onnxruntime"))
    assert items
    assert ours.keys() == theirs.keys() == {head.output for head in manifest.heads.values()}
    for output, expected in theirs.items():
        assert ours[output].shape == expected.shape
        for row, item in enumerate(items):
            tokens = slice(len(item.ids)) if expected.ndim == 3 else slice(None)
            np.testing.assert_allclose(
                ours[output][row][tokens], expected[row][tokens], atol=LOGIT, rtol=LOGIT, err_msg=output
            )


def test_the_real_minilm_gives_pytorchs_answers(minilm):
    stored = np.load(minilm / "golden.npz")
    expected = stored["embed"].reshape(len(stored["lengths"]), -1)
    answers = outputs_of(minilm, "openvino:fp32", trial.golden(minilm))["out_embed"]
    assert 1 - (answers * expected).sum(1).min() < FP32
    if openvino.able("bf16"):
        answers = outputs_of(minilm, "openvino:bf16", trial.golden(minilm))["out_embed"]
        assert 1 - (answers * expected).sum(1).min() < BF16


def test_texts_of_two_threads_do_not_mix(artifacts):
    with load(artifacts("minilm_like"), "openvino:fp32", threads=2) as model:
        assert model.engine.name == "openvino:model.onnx:fp32"
        texts = [
            " ".join(["paris", "mars", "sun"][: 1 + number % 3] * (1 + number % 7)) for number in range(24)
        ]
        alone = [model.embed(text)[0].outputs.embedding for text in texts]
        answers: dict[int, list] = {}

        def ask(part: int) -> None:
            answers[part] = [model.embed(text)[0].outputs.embedding for text in texts[part::4] * 5]

        threads = [threading.Thread(target=ask, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for part, vectors in answers.items():
        np.testing.assert_allclose(vectors, alone[part::4] * 5, atol=FP32)


def test_memory_stays_flat_over_shapes(artifacts):
    folder = artifacts("minilm_like")
    manifest = reading.read(folder).manifest
    choice = table.choose(manifest, "openvino:fp32")
    session, feed = table.open(folder, manifest, choice, threads=1), Feed(choice.graph.inputs)
    rng, sizes = np.random.default_rng(1), []
    for _ in range(2):
        for _ in range(300):
            items = items_of(*rng.integers(1, 100, rng.integers(1, 9)), seed=int(rng.integers(1 << 30)))
            session.run(feed.arrays(items), ["out_embed"])
        sizes.append(machine.rss_bytes())
    session.close()
    assert sizes[1] - sizes[0] < GROWTH_BYTES


def test_a_second_start_takes_the_compiled_graph(artifacts, cache, monkeypatch):
    folder, items = artifacts("minilm_like"), items_of(3, 17)
    first = outputs_of(folder, "openvino:fp32", items)["out_embed"]
    (blob,) = cache.glob("*.blob")
    monkeypatch.setattr(openvino, "_unpack", lambda model: pytest.fail("the graph was read again"))
    np.testing.assert_array_equal(outputs_of(folder, "openvino:fp32", items)["out_embed"], first)
    monkeypatch.undo()
    monkeypatch.setenv(cache_folder.FOLDER, str(cache))
    blob.chmod(0o600)
    blob.write_bytes(b"not what was kept")
    np.testing.assert_array_equal(outputs_of(folder, "openvino:fp32", items)["out_embed"], first)
    assert blob.stat().st_size > 1000
    monkeypatch.setenv(cache_folder.FOLDER, "")
    np.testing.assert_array_equal(outputs_of(folder, "openvino:fp32", items)["out_embed"], first)


def test_the_oldest_blobs_go(cache, monkeypatch):
    monkeypatch.setattr(blobs, "MOST_BYTES", 25)
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        blobs.keep(name, lambda: io.BytesIO(b"0123456789"))
        os.utime(cache / f"{name}.blob", (1e9 - age, 1e9 - age))
    blobs.keep("d", lambda: io.BytesIO(b"0123456789"))
    assert sorted(path.stem for path in cache.glob("*.blob")) == ["c", "d"]


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ("openvino:int8", "takes the int8 graph"),
        ("openvino:model.int8.onnx", "has no graph"),
        ("openvino:bf16", "this processor has no bf16 products; use openvino:fp32"),
        ("auto:int8", "export it with --precision int8"),
        ("auto:float8", "behind auto: expected any or fp32"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_a_sentence(artifacts, monkeypatch, engine, part):
    monkeypatch.setattr(openvino, "able", lambda precision: precision == "fp32")
    with pytest.raises(EngineError, match=part):
        load(artifacts("minilm_like"), engine)


class Simulated:
    """A session whose answers and whose seconds are given, of short and of longer rows."""

    profiles, lanes, backend = (), 1, "simulated"

    def __init__(self, seconds: float | tuple[float, float], drift: float) -> None:
        self.seconds = seconds if isinstance(seconds, tuple) else (seconds, seconds)
        self.drift = drift

    def run(self, inputs, outputs, *, alone=False):
        clock.now += self.seconds[inputs["input_ids"].shape[1] >= 32]
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(len(inputs["input_ids"]), 64)).astype(np.float32)
        noise = np.random.default_rng(1).normal(size=rows.shape).astype(np.float32)
        width = inputs["input_ids"].shape[1]
        shapes = {"out_embed": rows + self.drift * noise}
        return [shapes.get(name, np.repeat(rows[:, None], width, axis=1)) for name in outputs]

    def close(self) -> None:
        pass


class clock:  # noqa: N801
    now = 0.0


@pytest.mark.parametrize(
    ("seconds", "drift", "chosen"),
    [
        ({"onnxruntime": 1.0, "bf16": 0.3, "fp32": 0.9}, {"bf16": 0.001}, "openvino:model.onnx:bf16"),
        ({"onnxruntime": 1.0, "bf16": 0.3, "fp32": 0.8}, {"bf16": 0.1}, "openvino:model.onnx:fp32"),
        ({"onnxruntime": 1.0, "bf16": 0.8, "fp32": 0.7}, {}, "openvino:model.onnx:fp32"),
        ({"onnxruntime": 1.0, "bf16": 0.95, "fp32": 0.96}, {}, "onnxruntime:model.onnx"),
        ({"onnxruntime": (0.2, 1.0), "bf16": 0.3, "fp32": 0.3}, {}, "openvino:model.onnx:bf16"),
        (
            {"onnxruntime": 1.0, "bf16": 0.3, "fp32": 0.3},
            {"bf16": np.nan, "fp32": np.nan},
            "onnxruntime:model.onnx",
        ),
    ],
)
def test_auto_takes_the_fastest_within_its_bounds_and_remembers_it(
    artifacts, monkeypatch, cache, seconds, drift, chosen
):
    folder = artifacts("minilm_like")
    manifest = reading.read(folder).manifest
    opened = []

    def simulated(folder, manifest, choice, *, threads=None, at_once=False):
        kind = choice.precision or choice.backend
        opened.append(kind)
        if choice.backend == "openvino":
            blobs.keep(
                openvino.blob(folder, manifest, choice.graph, choice.precision),
                lambda: io.BytesIO(b"compiled"),
            )
        return Simulated(seconds[kind], drift.get(kind, 0.0))

    monkeypatch.setattr(openvino, "able", lambda precision: precision in ("fp32", "bf16"))
    monkeypatch.setattr(table, "open", simulated)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock.now)
    choice = measured.choose(folder, manifest)
    assert choice.name == chosen
    assert f"{chosen} is taken" in choice.notes[-1]
    kept = [path.stem for path in cache.glob("*.blob")]
    assert kept == (
        [openvino.blob(folder, manifest, choice.graph, choice.precision)] if choice.precision else []
    )
    count = len(opened)
    with monkeypatch.context() as known:
        known.setattr(openvino, "able", lambda precision: pytest.fail("the library was opened"))
        assert measured.choose(folder, manifest) == choice
    assert len(opened) == count
    (record,) = (path for path in cache.glob("*.json") if not path.name.startswith(cache_folder.OF))
    assert json.loads(record.read_text())["engine"] == chosen
    record.write_text("{")
    assert measured.choose(folder, manifest) == choice
    assert len(opened) == 2 * count


def test_auto_is_what_the_environment_says(artifacts, monkeypatch):
    monkeypatch.setenv(measured.VARIABLE, "openvino:fp32")
    with load(artifacts("minilm_like")) as model:
        assert model.engine.name == "openvino:model.onnx:fp32"
    with load(artifacts("minilm_like"), "onnxruntime") as model:
        assert model.engine.name == "onnxruntime:model.onnx"


def test_an_artifact_in_int8_alone_is_not_measured(artifacts, monkeypatch):
    monkeypatch.setattr(measured, "_measured", lambda *_: pytest.fail("measured"))
    manifest = reading.read(artifacts("minilm_like")).manifest
    graph = dataclasses.replace(manifest.graphs[0], precision="int8")
    choice = measured.choose(Path("."), dataclasses.replace(manifest, graphs=(graph,)))
    assert choice == table.Choice("onnxruntime", graph)


@pytest.fixture(scope="module")
def page_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_models.write(tmp_path_factory.mktemp("seeing"))


def test_pictures_are_computed_as_by_onnxruntime(page_model):
    page = np.random.default_rng(2).integers(0, 255, (40, 70, 3), dtype=np.uint8)
    prompts = [page, "a red page", {"text": "a blue page", "image": page[:20]}]
    answers = []
    for engine in ("openvino:fp32", "onnxruntime"):
        with load(page_model, engine, threads=1) as model:
            assert model.vision_engine is not None
            assert model.vision_engine.backend == engine.partition(":")[0]
            answers.append(np.asarray(model.embed(prompts)))
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_the_vision_graph_is_chosen_by_the_pictures_of_the_artifact(page_model, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(page_model, folder)
    pixels = np.random.default_rng(2).integers(0, 255, (40, 70, 3), dtype=np.uint8)
    write_golden(folder, {"pictures 0": pixels, "pictures 1": np.zeros(900, np.uint8)})
    manifest = reading.read(page_model).manifest
    assert manifest.images is not None
    assert len(trial.pictures(folder, manifest.images)) == 1
    monkeypatch.setattr(openvino, "able", lambda precision: precision == "fp32")
    choice = measured.choose(folder, manifest, "auto", "vision")
    assert choice.graph.role == "vision"
    assert "openvino:vision.onnx:fp32 is" in choice.notes[-1]
    # Without golden pictures nothing is measured.
    assert "nothing to measure" in measured.choose(page_model, manifest, "auto:any", "vision").notes[-1]


def test_another_order_of_texts_is_beyond_the_bounds():
    first, near, far = np.eye(32, dtype=np.float32)[:3]
    near, far = first + near, first + 3 * far
    expected = [[row] for row in (first, near, far)]
    assert trial._same_order(expected, expected)
    assert not trial._same_order(expected, [expected[0], expected[2], expected[1]])
