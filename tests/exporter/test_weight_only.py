"""Weights of 8 and 4 bits: the numbers, the graph beside transformers' class with the same weights, prefixes,
both engines, the choice of bits, and a model that is streamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.base import large
from poolrt.exporter.engine import Target
from poolrt.exporter.graph import onnx_files, tracing
from poolrt.exporter.graph.quantisation import groups
from poolrt.exporter.graph.quantisation.groups import Bits
from poolrt.exporter.graph.quantisation.weight_only import Options
from poolrt.exporter.graph.rewriting import weights_from_onnx
from poolrt.exporter.heads import planning
from poolrt.exporter.precision import choice, weight_only
from poolrt.exporter.precision.trials import Trials
from poolrt.runtime import load
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import Manifest
from poolrt.runtime.engines import measured, table
from poolrt.runtime.errors import EngineError, InputError
from poolrt.runtime.inputs.items import Item
from transformers import AutoModelForCausalLM

from tests.conftest import prefixed_reranker
from tests.families import decoders
from tests.families.proof import cosines

ROUNDING = 1e-4  # float32 sums in another order; logits of the tiny reranker are within -4..4
BITS: tuple[Bits, ...] = (8, 4)
TOKENS = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker's fp32 graph, which takes prefixes, and its 8-bit and 4-bit forms."""
    source, target = prefixed_reranker(), tmp_path_factory.mktemp("weights")
    for bits in BITS:
        weights_from_onnx(source / "model.onnx", target / f"{bits}.onnx", Options(bits))
    return target


def matrices(path: Path) -> list[NDArray[np.float32]]:
    """The weights of the products with groups, as onnxruntime's page of MatMulNBits says they are stored."""
    model = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        values, scales, *zeros = (stored[name] for name in node.input[1:])
        number = {attribute.name: attribute.i for attribute in node.attribute}
        columns, count = scales.shape
        if number["bits"] == 4:
            values = np.stack([values % 16, values // 16], axis=-1).reshape(columns, count, -1)
            points = np.stack([zeros[0] % 16, zeros[0] // 16], axis=-1).reshape(columns, -1)[:, :count]
        else:
            points = np.full((columns, count), 128)
        exact = (values.astype(np.float64) - points[..., None]) * scales[..., None]
        found.append(exact.reshape(number["N"], number["K"]).astype(np.float32))
    return found


def opened(path: Path, *, exact: bool) -> onnxruntime.InferenceSession:
    """`exact`: activations are not rounded either."""
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute if exact else ():
            if attribute.name == "accuracy_level":
                attribute.i = 1
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def feed(ids: NDArray[np.int64], past: NDArray[np.float32] | None = None) -> dict[str, Any]:
    before = np.zeros((4, 2, 0, 16), np.float32) if past is None else past
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "past": before}


def run(session: onnxruntime.InferenceSession, inputs: dict[str, Any], kept: int = 0) -> list[Any]:
    """[logits of each row's last token, keys and values of the first `kept` tokens]"""
    shape = next(value.shape for value in session.get_inputs() if value.name == "past")
    if not inputs["past"].shape[2]:
        empty = [size if isinstance(size, int) else 0 for size in shape]
        inputs = inputs | {"past": np.zeros(empty, np.float32)}
    return list(session.run(["out_classify", "present"], inputs | {"kept": np.arange(kept)}))


def ids_of(rows: int, tokens: int = TOKENS) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(5, 100, (rows, tokens))


@pytest.mark.parametrize("bits", BITS)
def test_a_group_is_rounded_within_half_a_step_and_states_its_error(bits: Bits) -> None:
    weights = np.random.default_rng(1).standard_normal((96, 40)).astype(np.float32)
    whole = groups.quantised(weights, bits, 32)
    off = groups.restored(whole) - weights
    assert np.isclose(whole.error, np.sqrt((off**2).sum() / (weights**2).sum()), rtol=1e-4)
    assert whole.error < {8: 0.01, 4: 0.1}[bits]
    if bits == 8:
        assert (np.abs(off) <= whole.scales.T.repeat(32, axis=0) * 0.501).all()


def test_the_range_of_four_bits_is_cut_for_the_inputs_that_matter() -> None:
    rng = np.random.default_rng(2)
    weights = rng.standard_t(3, (128, 64)).astype(np.float32)  # long tails, as trained weights have them
    importance = np.where(np.arange(128) % 4 == 0, 100.0, 0.01).astype(np.float32)
    plain, weighed = (groups.quantised(weights, 4, 32, shares) for shares in (None, importance))
    errors = [
        (importance[:, None] * (groups.restored(form) - weights) ** 2).sum() for form in (plain, weighed)
    ]
    assert errors[1] < 0.9 * errors[0]
    lowest, highest = (part.reshape(4, 32, 64) for part in (weights, weights))
    steps = (highest.max(1).clip(min=0) - lowest.min(1).clip(max=0)) / 15
    nearest = np.rint(weights.reshape(4, 32, 64) / steps[:, None]) * steps[:, None]
    assert plain.error < np.sqrt(((nearest.reshape(128, 64) - weights) ** 2).sum() / (weights**2).sum())


@pytest.mark.parametrize("bits", BITS)
def test_the_graph_computes_what_transformers_does_with_the_same_weights(
    bits: Bits, folder: Path, tmp_path: Path
):
    model = AutoModelForCausalLM.from_pretrained(decoders.qwen3_reranker_card(tmp_path)).eval()
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    restored = matrices(folder / f"{bits}.onnx")
    assert len(restored) == len(linear)
    with torch.no_grad():
        for matrix in restored:
            alike = [module for module in linear if module.weight.shape == matrix.shape]
            nearest = min(alike, key=lambda module: float(np.abs(module.weight.numpy() - matrix).mean()))
            linear.remove(nearest)
            nearest.weight.copy_(torch.from_numpy(matrix))
        ids = ids_of(3)
        hidden = model.model(torch.from_numpy(ids)).last_hidden_state[:, -1]
    head = next(
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(folder / f"{bits}.onnx").graph.initializer
        if tensor.dims and list(tensor.dims) == [hidden.shape[1], 1]
    )
    [logits, _] = run(opened(folder / f"{bits}.onnx", exact=True), feed(ids))
    np.testing.assert_allclose(logits, hidden.numpy() @ head, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("bits", BITS)
def test_neither_neighbours_nor_a_prefix_change_a_text(bits: Bits, folder: Path) -> None:
    session, ids = opened(folder / f"{bits}.onnx", exact=False), ids_of(4)
    together, present = run(session, feed(ids), kept=9)
    alone = np.concatenate([run(session, feed(ids[[row]]))[0] for row in range(4)])
    np.testing.assert_allclose(together, alone, atol=ROUNDING, rtol=ROUNDING)
    for row in range(2):
        behind = run(session, feed(ids[[row], 9:], present[row]))[0]
        np.testing.assert_allclose(behind, together[[row]], atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("bits", BITS)
def test_openvino_reads_the_same_graph(bits: Bits, folder: Path) -> None:
    openvino = pytest.importorskip("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": 1,
    }
    compiled = openvino.Core().compile_model(str(folder / f"{bits}.onnx"), "CPU", settings)
    session, inputs = opened(folder / f"{bits}.onnx", exact=True), feed(ids_of(3))
    [expected, _] = run(session, inputs)
    shape = next(value.shape for value in session.get_inputs() if value.name == "past")
    inputs["past"] = np.zeros([size if isinstance(size, int) else 0 for size in shape], np.float32)
    answers = compiled(inputs | {"kept": np.arange(0)})[compiled.output("out_classify")]
    np.testing.assert_allclose(answers, expected, atol=ROUNDING, rtol=ROUNDING)


def test_products_that_drift_get_more_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is said to fail twice; a tenth, then a quarter of the products have 8 bits."""
    source = prefixed_reranker()
    manifest = reading.read(source).manifest
    shutil.copyfile(source / "model.onnx", tmp_path / "model.onnx")
    failures = iter([["too far"], ["too far"], []])
    monkeypatch.setattr(Trials, "drift", lambda *_: next(failures))
    items = [Item(ids=row.tolist()) for row in ids_of(5)]
    said: list[str] = []
    trials = Trials(tmp_path, manifest, None, items, said.append)  # pyright: ignore[reportArgumentType]
    chosen = weight_only.chosen("int4-weights", trials)
    [graph] = chosen.graphs
    assert (graph.precision, graph.weights, graph.stored) == ("fp32", "int4-weights", "int4-weights")
    nodes = [node for node in onnx.load(tmp_path / graph.file).graph.node if node.op_type == "MatMulNBits"]
    bits = [next(attribute.i for attribute in node.attribute if attribute.name == "bits") for node in nodes]
    assert (len(bits), bits.count(8)) == (14, 4)
    assert len(said) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [graph.file]


def test_a_streamed_model_is_quantised_while_it_is_written(tmp_path: Path) -> None:
    read = checkpoint.read(decoders.qwen3_embedding(tmp_path / "checkpoint"), recipe=None)
    plan = replace(planning.plan(read), past=None)
    module = tracing.module(replace(read, large=True), plan)
    model = tracing.streamed_from_module(module, plan)
    [graph] = weight_only.quantised_in_place(
        [model], (tracing.described(plan, "model.onnx", (), model=model),), "int8-weights"
    )
    onnx_files.save(model, tmp_path / graph.file, apart=True)
    assert (graph.file, graph.stored) == ("model.int8-weights.onnx", "int8-weights")
    ids = ids_of(3)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / graph.file, options, ["CPUExecutionProvider"])
    [answers] = session.run([plan.heads["embed"].output], inputs)
    with torch.inference_mode():
        outputs = module(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64))
    [expected] = [output.numpy() for output in outputs if output.ndim == 2]
    assert cosines(list(np.asarray(answers)), list(expected), of="").min() > 0.99
    held = (tmp_path / graph.file).with_suffix(".data").stat().st_size
    assert held < (tmp_path / "checkpoint/model.safetensors").stat().st_size / 2


@pytest.mark.slow
def test_a_streamed_model_is_exported_and_served_in_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(large.SETTING, "0")
    source = decoders.qwen3_embedding(tmp_path / "checkpoint")
    report = pipeline.export(source, name="streamed", out=tmp_path, precision="int8_weight_only", recipe=None)
    assert report.precision == "int8-weights"
    with load(tmp_path / "streamed", "onnxruntime:int8-weights") as model:
        assert model.engine.graph.weights == "int8-weights"
        assert np.isfinite(np.asarray(model.embed(["a text"]))).all()


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("w4a16", "int4-weights"),
        ("int4", "int4-weights"),
        ("W8A16", "int8-weights"),
        ("int8wo", "int8-weights"),
    ],
)
def test_other_names_of_a_precision_are_understood(name: str, precision: str) -> None:
    assert choice.check(name, []) == precision
    with pytest.raises(InputError, match="is for processors"):
        choice.check(name, [Target("tensorrt-rtx", "sm89")])


def changed(change: Callable[[Manifest], Manifest]) -> Manifest:
    return change(reading.read(prefixed_reranker()).manifest)


def test_an_engine_may_be_named_by_what_the_weights_are_stored_in() -> None:
    manifest = changed(
        lambda known: replace(
            known, graphs=tuple(replace(graph, weights="int4-weights") for graph in known.graphs)
        )
    )
    assert table.choose(manifest, "onnxruntime:int4-weights").graph.weights == "int4-weights"
    assert table.choose(manifest, "openvino:int4-weights").precision == "fp32"
    assert table.choose(manifest, "openvino:bf16").precision == "bf16"
    with pytest.raises(EngineError, match="export it with --precision int8-weights"):
        measured.choose(prefixed_reranker(), manifest, "auto:w8a16")
