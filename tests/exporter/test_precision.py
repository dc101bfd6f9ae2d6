"""What lowering a graph's precision keeps: interface, accuracy, independence of a text from its
batch, fp32 where it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from poolrt.exporter.engine import Target
from poolrt.exporter.graph.quantisation.quantised import Quantised
from poolrt.exporter.graph.rewriting import int8_from_onnx, mixed_from_onnx
from poolrt.exporter.precision import choice, int8, trials
from poolrt.exporter.proof import verify
from poolrt.exporter.proof.texts import sentences
from poolrt.runtime.artifact import reading
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import InputError
from tokenizers import Tokenizer

# Random tiny models have no outliers and no training to absorb error; real MiniLM
# measures 0.99999 and 0.9947.
FP16_COSINE = 0.9999
INT8_COSINE = 0.97
PROMISED_COSINE = 0.98
# Logits of the random tiny classifiers lie within -1..1; the worst seen in int8 is 0.101.
DIFFERENCE = 0.15
WIDE = 8
TINY = [
    "minilm_like",
    "xlmr_embedder",
    "roberta_embedder",
    "colbert",
    "bert_cross_encoder",
    "xlmr_reranker",
    "bert_tokens",
    "bge_m3",
]


def graph_of(artifact: Path) -> Path:
    return artifact / "model.onnx"


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def batch(opened: Any, rows: Sequence[Sequence[int]], pad: int = 0) -> dict[str, NDArray[np.int64]]:
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), pad, np.int64), np.zeros((len(rows), width), np.int64)
    for row, found in enumerate(rows):
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {value.name: named[value.name] for value in opened.get_inputs()}


def rows(seed: int = 0, lengths: Sequence[int] = (3, 17, 40, 8)) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(5, 90, length).tolist() for length in lengths]


def agree(
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    lengths: Sequence[int],
    cosine: float,
) -> None:
    """Every output and row, padding left out: vectors by their direction, scores and label
    logits by their difference."""
    for one, other in zip(found, expected, strict=True):
        for row, length in enumerate(lengths):
            a, b = (
                np.atleast_2d(x[row, :length] if x.ndim == 3 else x[row]).astype(np.float64)
                for x in (one, other)
            )
            if a.shape[-1] < WIDE:
                np.testing.assert_allclose(a, b, atol=DIFFERENCE)
            else:
                cosines = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
                assert cosines.min() >= cosine


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_lowered_graph_has_the_same_interface_and_nearly_the_same_answers(
    artifacts: Callable[[str], Path], tmp_path: Path, name: str, kind: str
) -> None:
    source, target = graph_of(artifacts(name)), tmp_path / "lowered.onnx"
    if kind == "fp16":
        assert mixed_from_onnx(source, target, "fp16") > 0
    else:
        assert int8_from_onnx(source, target).products
    exact, lowered = session(source), session(target)
    described = [
        [(value.name, value.type, value.shape) for value in opened.get_inputs() + opened.get_outputs()]
        for opened in (exact, lowered)
    ]
    assert described[0] == described[1]
    feed = batch(exact, rows())
    answers = [opened.run(None, feed) for opened in (lowered, exact)]
    agree(*answers, lengths=[3, 17, 40, 8], cosine=FP16_COSINE if kind == "fp16" else INT8_COSINE)
    if kind == "fp16":
        onnx.shape_inference.infer_shapes(onnx.load(target), check_type=True, strict_mode=True)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_norms_softmax_pooling_and_heads_stay_fp32(
    artifacts: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    mixed_from_onnx(graph_of(artifacts("bert_cross_encoder")), tmp_path / "mixed.onnx", kind)  # type: ignore[arg-type]
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "mixed.onnx"), strict_mode=True)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]
    }
    kinds |= {value.name: value.data_type for value in model.graph.initializer}
    low = TensorProto.FLOAT16 if kind == "fp16" else TensorProto.BFLOAT16
    islands = {"LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "Div", "Sqrt"}
    for node in model.graph.node:
        if node.op_type in islands:
            assert all(
                kinds[name] in (TensorProto.FLOAT, TensorProto.INT64)
                for name in [*node.input, *node.output]
                if name
            ), node.op_type
    products = [kinds[node.input[0]] for node in model.graph.node if node.op_type == "MatMul"]
    assert products.count(low) >= 8, "the body computes in low precision"
    classifier = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and kinds[node.input[0]] == TensorProto.FLOAT
    ]
    assert classifier, "the head does not"


def test_no_constant_overflows_in_fp16(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("minilm_like", "xlmr_reranker"):
        mixed_from_onnx(graph_of(artifacts(name)), tmp_path / "mixed.onnx", "fp16")
        for tensor in onnx.load(tmp_path / "mixed.onnx").graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all(), tensor.name


@pytest.mark.parametrize("name", ["minilm_like", "bge_m3", "bert_cross_encoder"])
def test_in_int8_a_text_does_not_depend_on_its_batch(
    artifacts: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    int8_from_onnx(graph_of(artifacts(name)), tmp_path / "int8.onnx")
    opened = session(tmp_path / "int8.onnx")
    asked = rows(1, (5, 31, 12))
    asked[1] = [89] * 31  # an outlier beside them
    together = opened.run(None, batch(opened, asked))
    for index, row in enumerate(asked):
        alone = opened.run(None, batch(opened, [row]))
        for one, other in zip(alone, together, strict=True):
            expected = other[index, : len(row)] if other.ndim == 3 else other[index]
            # Sums in another order may round one activation to the neighbouring integer: a 127th of
            # one element, not more.
            np.testing.assert_allclose(one[0], expected, atol=0.02)


def test_int8_keeps_what_it_is_told_to_keep(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    source = graph_of(artifacts("minilm_like"))
    everything = int8_from_onnx(source, tmp_path / "int8.onnx")
    kept = int8_from_onnx(source, tmp_path / "kept.onnx", keep=everything.products[:3])
    assert kept.products == everything.products[3:]
    assert set(everything.products[:3]) <= set(kept.kept)
    nothing = int8_from_onnx(source, tmp_path / "none.onnx", keep=[*everything.products, *everything.tables])
    assert nothing.products == ()
    feed = batch(session(source), rows())
    for one, other in zip(
        session(source).run(None, feed), session(tmp_path / "none.onnx").run(None, feed), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def feed_forward(path: Path, *, broadcast: bool) -> None:
    """down(silu(gate(x)) * up(x)), with `up` of the first row alone where `broadcast`; x and a
    are [batch, tokens, 32]."""
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in (("g", (32, 64)), ("u", (32, 64)), ("d", (64, 32)))
    }
    node, make = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    axes = ["batch", "tokens"]
    nodes = [
        node("MatMul", ["x", "g"], ["gate"], name="gate"), node("MatMul", ["a", "u"], ["up"], name="up"),
        node("Sigmoid", ["gate"], ["s"]),
        node("Mul", ["gate", "s"], ["silu"]), node("Mul", ["silu", "up"], ["both"]),
        node("MatMul", ["both", "d"], ["down"], name="down"),
        node("Add", ["down", "x"], ["sum"]), node("LayerNormalization", ["sum", "w"], ["y"]),
    ]  # fmt: skip
    inner = {"gate": axes, "up": [1, "tokens"] if broadcast else axes, "s": axes, "silu": axes, "both": axes}
    graph = onnx.helper.make_graph(
        nodes, "g", [make("x", TensorProto.FLOAT, [*axes, 32]),
        make("a", TensorProto.FLOAT, [*inner["up"], 32])],
        [make("y", TensorProto.FLOAT, [*axes, 32])],
        [onnx.numpy_helper.from_array(array, name) for name,
        array in (*weights.items(), ("w", np.ones(32, np.float32)))],
        value_info=[make(name, TensorProto.FLOAT, [*lead, 64]) for name, lead in inner.items()],
    )  # fmt: skip
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path
    )


@pytest.mark.parametrize("broadcast", [False, True], ids=["alike", "one row for all"])
def test_what_stands_between_two_int8_products_keeps_its_meaning(tmp_path: Path, broadcast: bool) -> None:
    feed_forward(tmp_path / "model.onnx", broadcast=broadcast)
    made = int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert made.products == ("gate", "up", "down")
    generator = np.random.default_rng(1)
    x = generator.standard_normal((3, 5, 32)).astype(np.float32)
    feed = {"x": x, "a": x[:1] if broadcast else x}
    (exact,), (found,) = (session(tmp_path / name).run(None, feed) for name in ("model.onnx", "int8.onnx"))
    agree([found.reshape(-1, 32)], [exact.reshape(-1, 32)], [1] * 15, INT8_COSINE)
    # Between the products nothing changes shape: each input is made flat, and the end is made whole again.
    kinds = [each.op_type for each in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("Reshape") == (6 if broadcast else 3)


def test_int8_holds_its_promise_on_real_sentences(
    minilm: Path, minilm_checkpoint: Path, tmp_path: Path
) -> None:
    """The real MiniLM, 300 sentences, each against fp32 and each alone as well as in its batch."""
    tokenizer = Tokenizer.from_file(str(minilm_checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    asked = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences())[:300])]
    assert len(asked) == 300
    int8_from_onnx(graph_of(minilm), tmp_path / "int8.onnx")
    exact, lowered = session(graph_of(minilm)), session(tmp_path / "int8.onnx")

    def embedded(opened: Any, size: int) -> NDArray[np.float64]:
        parts = [
            opened.run(["out_embed"], batch(opened, asked[start : start + size]))[0]
            for start in range(0, len(asked), size)
        ]
        found = np.concatenate(parts).astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    expected, found = embedded(exact, 10), embedded(lowered, 10)
    assert (expected * found).sum(axis=1).min() >= PROMISED_COSINE
    np.testing.assert_allclose(found[:40], embedded(lowered, 1)[:40], atol=1e-3)
    sizes = [path.stat().st_size for path in (tmp_path / "int8.onnx", graph_of(minilm))]
    assert sizes[0] < 0.3 * sizes[1]


@pytest.mark.parametrize(
    ("asked", "targets", "told"),
    [
        ("fp8", [], "expected one of"),
        ("int8", [Target("tensorrt-rtx", "sm89")], "for processors"),
        ("auto", [Target("tensorrt")], "for processors"),
    ],
    ids=["unknown", "int8 engine", "auto engine"],
)
def test_a_precision_that_cannot_be_is_told_before_any_work(
    asked: str, targets: list[Target], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        choice.check(asked, targets)


def gelu_mlp(path: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    """layer_norm(x + down(gelu(up(x)))), of [rows, 32]."""
    node, make = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("MatMul", ["x", "u"], ["up"], name="up"), node("Add", ["up", "ub"], ["upb"]),
        node("Gelu", ["upb"], ["act"]),
        node("MatMul", ["act", "d"], ["down"], name="down"), node("Add", ["db", "down"], ["downb"]),
        node("Add", ["downb", "x"], ["sum"]),
        node("LayerNormalization", ["sum", "w"], ["y"]),
    ]  # fmt: skip
    shapes = {"up": 64, "upb": 64, "act": 64, "down": 32, "downb": 32, "sum": 32}
    graph = onnx.helper.make_graph(
        nodes, "g", [make("x", TensorProto.FLOAT, ["rows", 32])],
        [make("y", TensorProto.FLOAT, ["rows", 32])],
        [onnx.numpy_helper.from_array(array, name) for name,
        array in (*weights.items(), ("w", np.ones(32, np.float32)))],
        value_info=[make(name, TensorProto.FLOAT, ["rows", width]) for name, width in shapes.items()],
    )  # fmt: skip
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path
    )


def quantised(
    x: NDArray[Any], weights: NDArray[Any], *, shift: float, zero: int, levels: int
) -> NDArray[Any]:
    """docs/decisions/int8.md in numpy: 8 bits for each row of activations, 7 for each column of weights."""
    x = x + np.float32(shift)
    scale = (x if levels == 255 else np.abs(x)).max(axis=1, keepdims=True) / levels
    rows = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    columns = np.abs(weights).max(axis=0) / 63
    return (rows * scale) @ (np.rint(weights / columns) * columns) - shift * (
        np.rint(weights / columns) * columns
    ).sum(axis=0)


def test_int8_is_the_arithmetic_that_was_decided(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes = {"u": (32, 64), "ub": (64,), "d": (64, 32), "db": (32,)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    gelu_mlp(tmp_path / "model.onnx", weights)
    made = int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert made.products == ("up", "down")
    x = generator.standard_normal((7, 32)).astype(np.float32) * np.float32(0.1)
    x[3] *= 50
    (found,) = session(tmp_path / "int8.onnx").run(None, {"x": x})
    up = quantised(x, weights["u"], shift=0, zero=128, levels=127) + weights["ub"]
    (act,) = session(gelu_only(tmp_path / "gelu.onnx")).run(None, {"x": up.astype(np.float32)})
    total = quantised(act, weights["d"], shift=0.17001, zero=0, levels=255) + weights["db"] + x
    expected = (total - total.mean(1, keepdims=True)) / np.sqrt(total.var(1, keepdims=True) + 1e-5)
    # One activation that lies between two integers may go either way: a 255th of one element.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(found - expected).mean() < 2e-4
    np.testing.assert_array_equal(found[:3], session(tmp_path / "int8.onnx").run(None, {"x": x[:3]})[0])


def gelu_only(path: Path) -> Path:
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", ["x"], ["y"])],
        "g",
        [make("x", TensorProto.FLOAT, ["r", 64])],
        [make("y", TensorProto.FLOAT, ["r", 64])],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path
    )
    return path


@pytest.mark.parametrize("weights", ["small", "large"])
def test_weights_of_int8_use_seven_bits(tmp_path: Path, weights: str) -> None:
    generator = np.random.default_rng(0)
    shapes = {"u": (32, 64), "ub": (64,), "d": (64, 32), "db": (32,)}
    scale = np.float32(1e-3 if weights == "small" else 1e3)
    gelu_mlp(
        tmp_path / "model.onnx",
        {name: generator.standard_normal(shape).astype(np.float32) * scale for name, shape in shapes.items()},
    )
    int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    tensors = [
        onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
    ]
    integers = [tensor for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim == 2]
    assert [int(np.abs(tensor).max()) for tensor in integers] == [63, 63]
    assert all((np.abs(tensor).max(axis=0) == 63).all() for tensor in integers)


@pytest.mark.parametrize(
    ("asked", "within", "speed", "kept", "told"),
    [
        ("auto", True, 2.0, "int8",
        "auto chose int8. int8: 2 products and 1 tables quantised; static scales; 2.00 times"),
        ("auto", True, 1.2, "int8", "auto chose int8."),
        ("auto", True, 1.19, "fp32", "auto chose fp32: int8 is 1.19 times as fast here"),
        ("auto", False, 9.0, "fp32", "auto chose fp32: int8 drifts beyond its budget"),
        ("int8", False, 0.5, "int8", "0.50 times the speed"),
        ("int8", True, 3.0, "int8", "int8: 2 products"),
    ],
)  # fmt: skip
def test_auto_takes_int8_where_it_keeps_its_budget_and_is_worth_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    asked: Any,
    within: bool,
    speed: float,
    kept: str,
    told: str,
) -> None:
    from types import SimpleNamespace

    from poolrt.runtime.artifact.manifest import Graph

    base, lower = (
        Graph(file=f"{name}.onnx", precision=name, opset=20, inputs=(), outputs=())
        for name in ("fp32", "int8")
    )
    lower = replace(lower, static_scales=True)
    for graph in (base, lower):
        (tmp_path / graph.file).write_bytes(b"x")
    timed: list[object] = []
    facts = Quantised(("a", "b"), ("t",), ())
    monkeypatch.setattr(int8, "_text", lambda _: int8._Attempt(lower, facts, within))
    monkeypatch.setattr(trials.Trials, "speedup", lambda *_: timed.append(1) or speed)
    manifest: Any = SimpleNamespace(graph=lambda *_: base, graphs=(base,), images=None)
    reference: Any = None
    chosen = choice.chosen(asked, tmp_path, manifest, reference, (), print)
    assert [graph.precision for graph in chosen.graphs] == [kept]
    assert told in chosen.notes[0]
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept}.onnx"]
    assert len(timed) == (1 if within or asked == "int8" else 0)


def test_drift_is_measured_in_batches_that_fit_into_memory(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All probes padded to the longest would take tens of gigabytes of a model with 2048 positions."""
    opened = reading.read(artifacts("minilm_like"))
    graph, items = opened.manifest.graph("text"), trials.probes(opened.folder, opened.manifest)
    slots: list[int] = []
    fill = Feed.arrays

    def counted(self: Feed, *arguments: Any, **options: Any) -> dict[str, Any]:
        arrays = fill(self, *arguments, **options)
        slots.append(arrays["input_ids"].size)
        return arrays

    monkeypatch.setattr(Feed, "arrays", counted)
    limits = replace(trials.BATCHES, max_tokens=512)
    results = []
    for runner in (
        verify.Runner(opened.folder, opened.manifest, graph),
        verify.Runner(opened.folder, opened.manifest, graph, limits),
    ):
        results.append(runner.answers("embed", items))
        runner.close()
    whole, *parts = slots
    assert whole > 10 * max(parts)
    assert max(parts) <= 512
    for together, divided in zip(*results, strict=True):
        np.testing.assert_allclose(together, divided, atol=1e-5)
