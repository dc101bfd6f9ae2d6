"""int8 with constant scales: its arithmetic, what it is fitted to, and both libraries that run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from poolrt.exporter.graph.quantisation import activations
from poolrt.exporter.graph.quantisation.activations import Activation
from poolrt.exporter.graph.quantisation.quantised import Quantised
from poolrt.exporter.graph.rewriting import observed_from_onnx, static_int8_from_onnx
from poolrt.exporter.precision import calibration, calibration_texts, gate, int8, static, trials
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import Graph
from poolrt.runtime.engines import measured, openvino, table
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import EngineError
from poolrt.runtime.loader import prepared_for

from .test_precision import batch, gelu_mlp, gelu_only, rows, session

REAL = 0.989  # least cosine of real MiniLM, calibrated on 60 sentences: 0.9917; on 152: 0.9954
ROUNDING = 5e-3  # a value between two integers may go either way: a 255th of one element
Floats = NDArray[np.float32]


def samples_of(rows: Floats) -> activations.Samples:
    return activations.add(None, rows, np.random.default_rng(0), len(rows))


def weights_of(seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    shapes = {"u": (32, 64), "ub": (64,), "d": (64, 32), "db": (32,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def fitted(path: Path, target: Path, x: Floats) -> dict[str, Activation]:
    """The activations of `gelu_mlp` on the rows `x`."""
    readers = observed_from_onnx(path, target)
    values = session(target).run(list(readers), {"x": x})
    return {
        name: activations.fit(samples_of(seen), list(of.values()))
        for (name, of), seen in zip(readers.items(), values, strict=True)
    }


def expected_product(x: Floats, weights: Floats, activation: Activation) -> Floats:
    """docs/decisions/int8.md in numpy, of one product that alone reads its input."""
    smoothing = np.ones(len(weights)) if activation.smoothing is None else activation.smoothing
    integers = np.clip(np.rint(x / smoothing / activation.scale) + activation.zero, 0, 255) - activation.zero
    smoothed = weights * smoothing[:, None]
    scales = np.abs(smoothed).max(axis=0) / 63
    return integers * activation.scale @ (np.rint(smoothed / scales) * scales) + activation.corrections[0]


def test_the_graph_is_the_arithmetic_that_was_decided(tmp_path: Path) -> None:
    weights, rng = weights_of(), np.random.default_rng(1)
    gelu_mlp(tmp_path / "model.onnx", weights)
    seen = rng.standard_normal((200, 32)).astype(np.float32)
    seen[:, 5] *= 30  # one channel is far larger than the others
    scales = fitted(tmp_path / "model.onnx", tmp_path / "observed.onnx", seen)
    done = static_int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx", scales)
    assert done.products == ("up", "down")
    assert scales["x"].smoothing is not None
    x = seen[:9] * np.float32(0.7)
    (answers,) = session(tmp_path / "int8.onnx").run(None, {"x": x})
    up = expected_product(x, weights["u"], scales["x"]) + weights["ub"]
    (act,) = session(gelu_only(tmp_path / "gelu.onnx")).run(None, {"x": up.astype(np.float32)})
    total = expected_product(act, weights["d"], scales["act"]) + weights["db"] + x
    expected = (total - total.mean(1, keepdims=True)) / np.sqrt(total.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(answers, expected, atol=4 * ROUNDING)  # the large channel makes levels coarse
    assert np.abs(answers - expected).mean() < 1e-3
    # Another scale would be seen.
    (exact,) = session(tmp_path / "model.onnx").run(None, {"x": x})
    wrong = {name: dataclasses.replace(of, scale=of.scale * np.float32(10)) for name, of in scales.items()}
    static_int8_from_onnx(tmp_path / "model.onnx", tmp_path / "wrong.onnx", wrong)
    (far,) = session(tmp_path / "wrong.onnx").run(None, {"x": x})
    assert np.abs(far - exact).mean() > 3 * np.abs(answers - exact).mean()


def test_both_libraries_fuse_every_product(tmp_path: Path) -> None:
    gelu_mlp(tmp_path / "model.onnx", weights_of())
    x = np.random.default_rng(1).standard_normal((50, 32)).astype(np.float32)
    scales = fitted(tmp_path / "model.onnx", tmp_path / "observed.onnx", x)
    static_int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx", scales)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    ort.InferenceSession(str(tmp_path / "int8.onnx"), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("QGemm") == 2
    assert "MatMul" not in kinds
    assert "Gemm" not in kinds
    core = openvino._core()
    compiled = core.compile_model(str(tmp_path / "int8.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    executed = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    products = [
        str(info["primitiveType"].astype(str))
        for info in executed
        if "FullyConnected" in info["layerType"].astype(str)
    ]
    assert len(products) == 2
    assert all(kind.lower().endswith("i8") for kind in products), products
    (ours,) = session(tmp_path / "int8.onnx").run(None, {"x": x})
    np.testing.assert_allclose(compiled({"x": x})[0], ours, atol=2 * ROUNDING)


def test_ranges_hold_every_value_that_was_seen_and_zero() -> None:
    low, high = np.array([2.0, 3.0], np.float32), np.array([4.0, 9.0], np.float32)
    assert activations._range(low, high) == (np.float32(9 / 255), 0)
    scale, zero = activations._range(-high, low)
    assert zero == round(9 / (12 / 255))
    assert (0 - zero) * scale <= -9 + scale
    assert (255 - zero) * scale >= 3 - scale
    seen = None
    for part in np.random.default_rng(0).standard_normal((40, 30, 4)).astype(np.float32):
        seen = activations.add(seen, part, np.random.default_rng(1), 30)
    assert seen is not None
    assert sum(map(len, seen.rows)) <= 2 * activations.ROWS + 30
    every = np.random.default_rng(0).standard_normal((40, 30, 4)).astype(np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(seen.high, every.max(axis=0))
    np.testing.assert_array_equal(seen.low, every.min(axis=0))


def test_a_channel_far_larger_than_the_others_is_smoothed() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((300, 64)).astype(np.float32), weights_of()["d"]
    flat = activations.fit(samples_of(x), [weights])
    x[:, 3] *= 100
    smoothed = activations.fit(samples_of(x), [weights])
    assert smoothed.smoothing is not None
    assert smoothed.smoothing[3] > 5 * np.median(smoothed.smoothing)
    plain = expected_product(
        x, weights, dataclasses.replace(smoothed, smoothing=None, scale=np.float32(np.ptp(x) / 255))
    )
    change = [
        np.mean((expected_product(x, weights, smoothed) - x @ weights) ** 2),
        np.mean((plain - x @ weights) ** 2),
    ]
    assert change[0] < 0.2 * change[1]
    assert flat.error < 1e-3


def test_what_no_text_reached_stays_fp32(tmp_path: Path) -> None:
    gelu_mlp(tmp_path / "model.onnx", weights_of())
    x = np.random.default_rng(1).standard_normal((50, 32)).astype(np.float32)
    scales = fitted(tmp_path / "model.onnx", tmp_path / "observed.onnx", x)
    done = static_int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx", {"x": scales["x"]})
    assert (done.products, done.kept) == (("up",), ("down",))
    done = static_int8_from_onnx(tmp_path / "model.onnx", tmp_path / "none.onnx", scales, keep=["up", "down"])
    assert done.products == ()
    feed = {"x": x}
    np.testing.assert_allclose(
        *(session(tmp_path / f"{name}.onnx").run(None, feed)[0] for name in ("none", "model")), atol=1e-6
    )


def attempted(folder: Path, into: Path, items: list[Any]) -> tuple[trials.Trials, Graph]:
    """The static int8 form of an artifact's fp32 graph, written into `into`."""
    manifest = reading.read(folder).manifest
    for file in manifest.files:
        (into / file).write_bytes((folder / file).read_bytes())
    reference: Any = None
    measuring = trials.Trials(into, manifest, reference, items, lambda line: None)
    return measuring, static.writer(measuring, measuring.base)((), None)[0]


@pytest.fixture(scope="module")
def tiny_int8(
    artifacts: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Graph]:
    folder = artifacts("minilm_like")
    items = trials.probes(folder, reading.read(folder).manifest)
    return attempted(folder, tmp_path_factory.mktemp("tiny"), items[300:])


def test_a_text_does_not_depend_on_the_texts_beside_it(tiny_int8: tuple[Any, Graph]) -> None:
    measuring, graph = tiny_int8
    assert graph.static_scales
    opened = session(measuring.folder / graph.file)
    asked = rows(1, (5, 31, 12))
    asked[1] = [89] * 31  # an outlier beside them
    together = opened.run(["out_embed"], batch(opened, asked))[0]
    for index, row in enumerate(asked):
        (alone,) = opened.run(["out_embed"], batch(opened, [row]))
        # Sums of attention in another order may round one activation to the neighbouring integer.
        np.testing.assert_allclose(alone[0], together[index], atol=0.01)


def test_openvino_runs_static_scales_and_refuses_scales_per_row(tiny_int8: tuple[Any, Graph]) -> None:
    measuring, graph = tiny_int8
    manifest = dataclasses.replace(measuring.manifest, graphs=(graph,))
    items = measuring.items[:20]
    arrays = Feed(graph.inputs, pad_id=manifest.text.pad_id).arrays(items)
    answers = []
    for engine in ("onnxruntime", "openvino", "openvino:int8", f"openvino:{graph.file}"):
        choice = table.choose(manifest, engine)
        assert choice.graph == graph
        opened = table.open(measuring.folder, manifest, choice, threads=1)
        answers.append(opened.run(arrays, ["out_embed"])[0])
        opened.close()
    for other in answers[1:]:
        cosines = (
            (answers[0] * other).sum(1) / np.linalg.norm(answers[0], axis=1) / np.linalg.norm(other, axis=1)
        )
        assert cosines.min() > 0.98
    rowwise = dataclasses.replace(graph, static_scales=False)
    with pytest.raises(EngineError, match="quantised while they run"):
        openvino.open(measuring.folder, manifest, rowwise, precision="int8")
    assert openvino.unable(graph, "bf16") is not None


def test_auto_measures_both_libraries_for_static_scales_alone(tiny_int8: tuple[Any, Graph]) -> None:
    manifest, graph = tiny_int8[0].manifest, tiny_int8[1]
    fp32 = manifest.graphs[0]

    def names(*graphs: Graph, engine: str = "auto", which: str = "") -> list[str]:
        of = dataclasses.replace(manifest, graphs=graphs)
        usual = table.choose(of, engine)
        return [choice.name for choice in measured._candidates(of, usual, engine, which)]

    both = ["onnxruntime:model.int8.onnx", "openvino:model.int8.onnx:int8"]
    assert names(graph) == names(graph, which="int8") == names(fp32, graph, which="int8") == both
    assert names(graph, which="bf16") == []
    assert names(dataclasses.replace(graph, static_scales=False)) == both[:1]
    assert [name for name in names(fp32, graph) if "int8" in name] == []
    assert set(both) < set(names(fp32, graph, which="any"))


def test_a_vision_graph_that_stays_fp32_runs_beside_int8(tiny_int8: tuple[Any, Graph]) -> None:
    manifest, graph = tiny_int8[0].manifest, tiny_int8[1]
    vision = dataclasses.replace(manifest.graphs[0], role="vision", file="vision.onnx")
    both = dataclasses.replace(manifest, graphs=(graph, vision))
    for engine in ("openvino", "openvino:int8", "openvino:model.int8.onnx"):
        assert table.choose(both, engine, "text").name == "openvino:model.int8.onnx:int8"
        assert table.choose(both, engine, "vision").name == "openvino:vision.onnx:fp32"
    usual = table.choose(both, "auto", "vision")
    assert all(choice.graph == vision for choice in measured._candidates(both, usual, "auto", "int8"))


def test_the_real_minilm_holds_its_gate_in_both_libraries(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = trials.probes(minilm, reading.read(minilm).manifest)
    proving, sentences = items[1:120:2], calibration_texts.texts.many
    monkeypatch.setattr(calibration_texts.texts, "many", lambda *arguments: sentences(*arguments)[:120])
    measuring, graph = attempted(minilm, tmp_path, items)
    arrays = Feed(graph.inputs, pad_id=measuring.manifest.text.pad_id).arrays(proving)
    (expected,) = session(minilm / "model.onnx").run(["out_embed"], arrays)
    for engine in ("onnxruntime", "openvino"):
        manifest = dataclasses.replace(measuring.manifest, graphs=(graph,))
        opened = table.open(tmp_path, manifest, table.choose(manifest, engine), threads=1)
        (answers,) = opened.run(arrays, ["out_embed"])
        opened.close()
        cosines = (
            (answers * expected).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(expected, axis=1)
        )
        assert cosines.min() > REAL, engine
        assert not gate.failures(engine, "embed", list(answers), list(expected))
    assert graph.file == "model.int8.onnx"
    assert not (tmp_path / "calibration.onnx").exists()


def test_calibration_has_more_than_prose(minilm: Path) -> None:
    manifest = reading.read(minilm).manifest
    items = calibration_texts.items(minilm, manifest)
    ids = [item.ids for item in items]
    (code,) = prepared_for(minilm, manifest).singles([calibration_texts.NO_PROSE[0]])
    assert code.ids in ids
    random = [row for row in ids if len(set(row)) > 0.9 * len(row) and len(row) > 200]
    assert random, "random tokens hardly repeat, prose does"
    assert all(
        row[0] == ids[0][0] and row[-1] == ids[0][-1] and max(row) < manifest.text.vocab_size for row in ids
    )


def test_calibration_runs_in_pieces_that_fit_into_memory(
    tiny_int8: tuple[Any, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = tiny_int8[0]
    whole = calibration.calibrated(measuring, measuring.base)
    monkeypatch.setattr(calibration, "_MOST_BYTES", 1)
    pieces = calibration.calibrated(measuring, measuring.base)
    assert whole.keys() == pieces.keys()
    assert [of.scale for of in whole.values()] == pytest.approx([of.scale for of in pieces.values()], rel=0.3)


def test_the_gate_is_about_each_text_all_texts_and_the_order_of_scores() -> None:
    rng = np.random.default_rng(0)
    vectors = [row / np.linalg.norm(row) for row in rng.standard_normal((50, 64))]

    def turned(by: float) -> list[Any]:
        return [
            row + by * noise / np.linalg.norm(noise)
            for row, noise in zip(vectors, rng.standard_normal((50, 64)), strict=True)
        ]

    assert gate.failures("e", "embed", turned(0.1), vectors) == []
    (line,) = gate.failures("e", "embed", turned(0.17), vectors)
    assert "mean cosine 0.98" in line
    (line,) = gate.failures("e", "embed", [*turned(0.1)[:-1], -vectors[-1]], vectors)
    assert "at least 0.98" in line
    scores = np.linspace(0, 1, 40, dtype=np.float32)
    expected = [np.array([score], np.float32) for score in scores]
    near = [np.array([score + 0.01 * (-1) ** number], np.float32) for number, score in enumerate(scores)]
    assert gate.failures("e", "classify", near, expected) == []
    swapped = [np.array([score + 0.09 * (-1) ** number], np.float32) for number, score in enumerate(scores)]
    (line,) = gate.failures("e", "classify", swapped, expected)
    assert "keep their order, at least 99%" in line
    assert gate.same_order(np.zeros(3, np.float32), np.array([0.0, 0.01, 0.02], np.float32)) == 1.0


@pytest.mark.parametrize("holds", [True, False], ids=["static", "per row"])
def test_scales_per_row_are_the_fallback_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    base = Graph(file="model.onnx", precision="fp32", opset=20, inputs=(), outputs=())
    (tmp_path / base.file).write_bytes(b"x")

    def writer(scales: bool) -> Any:
        def write(keep: Any, name: str | None) -> tuple[Graph, Quantised]:
            (tmp_path / f"{name or 'model'}.int8.onnx").write_bytes(b"x")
            graph = dataclasses.replace(
                base, file=f"{name or 'model'}.int8.onnx", precision="int8", static_scales=scales
            )
            return graph, Quantised(("a", "b"), (), tuple(keep))

        return lambda *_: write

    monkeypatch.setattr(int8.static, "writer", writer(True))
    monkeypatch.setattr(int8.dynamic, "writer", writer(False))
    monkeypatch.setattr(
        trials.Trials, "drift", lambda _, graph: [] if holds or not graph.static_scales else ["far"]
    )
    monkeypatch.setattr(trials.Trials, "outputs", lambda *_: [np.ones(1, np.float32)])
    monkeypatch.setattr(trials.Trials, "speedup", lambda *_: 2.0)
    present: list[bool] = []
    monkeypatch.setattr(
        int8, "pictures", lambda *_: present.append((tmp_path / base.file).exists()) or ((), ())
    )
    manifest: Any = SimpleNamespace(graph=lambda *_: base, graphs=(base,), images=None)
    reference: Any = None
    chosen = int8.chosen("int8", trials.Trials(tmp_path, manifest, reference, (), lambda line: None))
    assert present == [True], "pictures are calibrated beside the fp32 text graph"
    assert [graph.static_scales for graph in chosen.graphs] == [holds]
    assert (
        "static scales;" if holds else "a scale per row, because static scales drift too far"
    ) in chosen.notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model.int8.onnx"]
