"""SPLADE's logits pooled slice by slice: the vectors are Sentence Transformers', in every form of the graph,
and no slice is wider than it may be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.base import large
from poolrt.exporter.graph import onnx_files, tracing
from poolrt.exporter.graph.passes import slices
from poolrt.exporter.graph.passes.signature import PassOptions
from poolrt.exporter.graph.passes.surgery import constant_of
from poolrt.exporter.heads import planning
from poolrt.runtime import loader
from poolrt.runtime.artifact.manifest import Manifest

from tests.conftest import exported
from tests.exporter.test_splade import of_the_library
from tests.families import TEXTS, find
from tests.families.proof import COSINE, compiles_and_lowers, cosines, opened, prove
from tests.runtime.test_model import changed

WIDTH = 50
"""Of a slice here, so that tiny vocabularies (134 and 271) have three and six, the last one narrower."""


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "WIDTH", WIDTH)


def products(path: Path) -> list[int]:
    """Columns of the products behind which tokens are pooled."""
    nodes = [node for node in ir.load(path).graph if str(node.name).startswith(f"{slices.PREFIX}/")]
    tables = [constant_of(node.inputs[1]) for node in nodes if node.op_type == "MatMul"]
    return [table.shape[1] for table in tables if table is not None]


def test_sliced_logits_give_the_vectors_of_the_library_and_can_be_lowered(tmp_path: Path) -> None:
    """Of a sum over tokens, which the logarithm precedes."""
    folder = find("splade_untied")(tmp_path / "checkpoint")
    proved = prove(folder, tmp_path)
    assert proved.graph is not None
    assert proved.graph.sliced
    vocabulary = proved.plan.heads["embed"].dim
    widths = products(tmp_path / "model.onnx")
    assert (sum(widths), max(widths)) == (vocabulary, WIDTH)
    ours, theirs = proved.answers("embed", TEXTS), of_the_library(folder, list(TEXTS))
    assert cosines(ours, theirs).min() > COSINE
    # Not normalised: sums up to 200
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=1e-4, atol=1e-5)
    compiles_and_lowers(proved)
    for file in ("fp16.onnx", "bf16.onnx", "int8.onnx"):
        assert max(products(tmp_path / file)) == WIDTH


def test_a_streamed_table_is_cut_and_its_largest_logits_are_those_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(large.SETTING, "0")
    read = dataclasses.replace(checkpoint.read(find("splade_bert")(tmp_path), recipe=None), large=True)
    plan = planning.plan(read)
    module = tracing.module(read, plan)
    model = tracing.streamed_from_module(module, plan)
    assert tracing.described(plan, "model.onnx", (), model=model).sliced
    onnx_files.save(model, tmp_path / "model.onnx", apart=True)
    assert sum(products(tmp_path / "model.onnx")) == plan.heads["embed"].dim
    ids = torch.from_numpy(np.random.default_rng(3).integers(5, 100, (2, 9)))
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    feed["attention_mask"][1, 4:] = 0
    with torch.inference_mode():
        outputs = module(*(feed[name] for name in plan.inputs))
    [expected] = [output.numpy() for output in outputs if output.ndim == 2]
    session = opened(tmp_path / "model.onnx")
    [answers] = session.run([plan.heads["embed"].output], {name: feed[name].numpy() for name in plan.inputs})
    np.testing.assert_allclose(np.asarray(answers), expected, rtol=1e-4, atol=1e-5)


def test_a_table_that_fits_and_logits_that_are_returned_stay_whole() -> None:
    assert not slices.run(pooled_logits(columns=WIDTH), PassOptions()).changes
    assert not slices.run(pooled_logits(columns=WIDTH + 1, returned=True), PassOptions()).changes
    assert slices.run(pooled_logits(columns=WIDTH + 1), PassOptions()).changes == 1


def pooled_logits(columns: int, *, returned: bool = False) -> ir.Model:
    """max over tokens of x W, without the logits or with them as an output."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "tokens", 4]))
    table = ir.tensor(np.ones((4, columns), np.float32), name="table")
    axes = ir.tensor(np.array([1], np.int64), name="axes")
    constants = [
        ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.numpy().shape),
            const_value=tensor,
        )
        for tensor in (table, axes)
    ]
    product = ir.node("MatMul", [x, constants[0]])
    pool = ir.node("ReduceMax", [product.outputs[0], constants[1]], attributes={"keepdims": 0})
    for node, name in ((product, "logits"), (pool, "pooled")):
        node.outputs[0].name = name
        node.outputs[0].type = x.type
    outputs = [pool.outputs[0], *([product.outputs[0]] if returned else [])]
    graph = ir.Graph(
        [x], outputs, nodes=[product, pool], initializers=constants, opset_imports={"": 20}, name="pooled"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("sliced", "slots"), [(True, loader.CPU_TOKENS), (False, 100)], ids=["new", "old"])
def test_only_batches_without_slices_are_bounded(
    sliced: bool, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported("splade_bert", lambda workplace: find("splade_bert")(workplace / "splade_bert"))

    def change(manifest: Manifest) -> Manifest:
        graphs = tuple(dataclasses.replace(graph, sliced=sliced) for graph in manifest.graphs)
        return dataclasses.replace(manifest, graphs=graphs)

    monkeypatch.setattr(loader, "CPU_LOGITS", 134 * 4 * 100)
    with loader.load(changed(source, tmp_path / "artifact", change), "onnxruntime") as model:
        assert model.worker.limits.max_tokens == slots
