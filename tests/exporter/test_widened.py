"""A bf16 artifact on a processor: a second graph reads the same weights and computes in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from poolrt.exporter import engine
from poolrt.exporter.base import large
from poolrt.exporter.graph import onnx_files, rewriting
from poolrt.exporter.proof import verify
from poolrt.runtime import load, machine
from poolrt.runtime.artifact.manifest import Manifest
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.engines import ort, table
from poolrt.runtime.errors import EngineError

from tests import checkpoints, pictures
from tests.conftest import exported
from tests.exporter.test_streamed import rounded
from tests.families import decoders, qwen3_vl

EXACT = 1 - 1e-6
"""Cosine to PyTorch where the checkpoint is bf16 itself: float32 on both sides. Worst measured 1 - 1e-7."""
ROUNDED = 0.9999
"""Where float32 weights were rounded to bf16, and activations were not. Worst measured 0.99998."""
ONE_MORE_SUM = 2e-6  # the same products with weights that ONNX Runtime did not pack

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "decoder": lambda folder: rounded(decoders.e5_mistral(folder)),
    "encoder": checkpoints.bge_m3,
    "pictures": lambda folder: qwen3_vl.qwen3_vl_embedding(
        folder,
        seed=8,
        dtype="bfloat16",
        text={"num_hidden_layers": 2},
        vision={"depth": 2, "deepstack_visual_indexes": [0]},
    ),
}
NAMES = list(CHECKPOINTS)
PROMPTS: list[Any] = ["a first text", "and a longer text, of more words than the first one has"]


@pytest.fixture
def artifact(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`artifact("decoder")`: its bf16 artifact, streamed as a large model's. The limit is the usual one again
    when it is used, so that graphs run as a whole."""

    def find(name: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(large.SETTING, "0")
            return exported(f"bf16-{name}", CHECKPOINTS[name], precision="bf16")

    monkeypatch.delenv(large.SETTING, raising=False)
    return find


def manifest_of(folder: Path) -> Manifest:
    return read(folder, check="quick").manifest


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_read_one_file_of_weights(artifact: Callable[[str], Path], name: str) -> None:
    folder = artifact(name)
    manifest = manifest_of(folder)
    stored = {file: entry.size for file, entry in manifest.files.items() if file.endswith((".onnx", ".data"))}
    assert sum(size for file, size in stored.items() if file.endswith(".onnx")) < 3_000_000
    for role in ("text", "vision") if name == "pictures" else ("text",):
        processors, engines = (
            next(graph for graph in manifest.graphs if graph.role == role and graph.precision == precision)
            for precision in ("fp32", "bf16")
        )
        assert (processors.weights, processors.stored, engines.weights) == ("bf16", "bf16", None)
        assert processors.external == engines.external
        assert engine.compilable(manifest, role) == engines
        kinds = {
            tensor.data_type
            for tensor in onnx.load(folder / processors.file, load_external_data=False).graph.initializer
            if tensor.external_data and len(tensor.dims) > 1
        }
        assert TensorProto.BFLOAT16 in kinds


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_graph_computes_what_pytorch_did(artifact: Callable[[str], Path], name: str) -> None:
    """On the stored texts, and pictures where there are some: ONNX Runtime runs the graph in one piece."""
    folder = artifact(name)
    manifest = dataclasses.replace(manifest_of(folder))
    evidence, left_out = verify.against_golden(folder, manifest)
    verify.enforce(evidence)
    ran = {row.engine for row in evidence}
    assert ran == {f"onnxruntime:{graph.file}" for graph in manifest.graphs if graph.precision == "fp32"}
    assert all("no bf16 on processors" in line for line in left_out)
    cosines = [row.worst_cosine for row in evidence if row.worst_cosine is not None]
    assert min(cosines) > (ROUNDED if name == "encoder" else EXACT)
    proved = {row.engine for row in manifest.evidence}
    assert {f"{engine} (in pieces)" for engine in ran} < proved, "and in pieces, at export"
    assert any("rounded to bf16" in engine for engine in proved)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_stay_bf16_give_the_same_answers(
    artifact: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disabled: list[list[str]] = []
    library = onnxruntime.InferenceSession

    def opened(*arguments: Any, disabled_optimizers: list[str], **more: Any) -> Any:
        disabled.append(disabled_optimizers)
        return library(*arguments, disabled_optimizers=disabled_optimizers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    prompts = [*PROMPTS, *([{"image": pictures.drawn(40, 70)}] if name == "pictures" else [])]
    answers = []
    for free in (1 << 40, 0):
        monkeypatch.setattr(machine, "free_bytes", lambda free=free: free)
        disabled.clear()
        with load(artifact(name)) as model:
            assert model.engine.graph.weights == "bf16"
            answers.append(np.asarray(model.embed(prompts)))
        assert disabled
        assert all(("ConstantFolding" in names) == (free == 0) for names in disabled)
    np.testing.assert_allclose(*answers, atol=ONE_MORE_SUM)


def test_a_device_gets_its_form(artifact: Callable[[str], Path]) -> None:
    manifest = manifest_of(artifact("pictures"))

    def files(name: str) -> list[str]:
        return [table.choose(manifest, name, role).graph.file for role in ("text", "vision")]

    for name in ("auto", "onnxruntime", "onnxruntime:bf16", "cpu", "onnxruntime:fp32"):
        assert files(name) == ["text.onnx", "vision.onnx"], name
    for name in ("onnxruntime-cuda", "onnxruntime-cuda:bf16", "onnxruntime:text.bf16.onnx"):
        assert files(name) == ["text.bf16.onnx", "vision.bf16.onnx"], name
    assert files("onnxruntime-cuda:fp32") == ["text.onnx", "vision.onnx"]


def test_a_named_bf16_graph_says_where_it_runs(artifact: Callable[[str], Path]) -> None:
    with pytest.raises(EngineError, match=r"no bf16 on processors.*engine='onnxruntime'.*poolrt build"):
        load(artifact("decoder"), engine="onnxruntime:model.bf16.onnx")


def test_an_artifact_with_a_bf16_graph_alone_says_what_to_do(artifact: Callable[[str], Path]) -> None:
    folder = artifact("decoder")
    manifest = manifest_of(folder)
    older = dataclasses.replace(manifest, graphs=(manifest.graph("text", "bf16"),))
    with pytest.raises(EngineError, match="export it again"):
        ort.open(folder, older, older.graphs[0])


def written(folder: Path) -> tuple[ir.Model, dict[str, Any]]:
    """A bf16 graph, its weights beside it, and the weights by name: a table of 5 rows that is looked up and
    multiplied with, a product, and a bias of few bytes."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(ml_dtypes.bfloat16)
        for name, shape in {"table": (5, 128), "matrix": (128, 128), "bias": (128,)}.items()
    }
    low, node = TensorProto.BFLOAT16, helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["rows"], name="lookup"),
        node("MatMul", ["rows", "matrix"], ["product"], name="product"),
        node("Add", ["product", "bias"], ["sum"], name="sum"),
        node("Cast", ["sum"], ["exact"], to=TensorProto.FLOAT, name="up"),
        node("Tanh", ["exact"], ["bent"], name="bent"),
        node("Cast", ["bent"], ["bent_low"], to=low, name="down"),
        node("Transpose", ["table"], ["columns"], perm=[1, 0], name="columns"),
        node("MatMul", ["bent_low", "columns"], ["scores_low"], name="scores"),
        node("Cast", ["scores_low"], ["scores"], to=TensorProto.FLOAT, name="scores/cast"),
    ]
    shapes = {
        "rows": ("n", 128), "product": ("n", 128), "sum": ("n", 128), "bent_low": ("n", 128),
        "columns": (128, 5), "scores_low": ("n", 5),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        value_info=[
            *(helper.make_tensor_value_info(name, low, shape) for name, shape in shapes.items()),
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 128])
                for name in ("exact", "bent")
            ),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.serde.deserialize_model(proto)
    onnx_files.save(model, folder / "model.bf16.onnx", apart=True)
    return model, {name: array.astype(np.float32) for name, array in arrays.items()}


def test_weights_are_cast_and_nothing_else_stays_bf16(tmp_path: Path) -> None:
    model, weights = written(tmp_path)
    before = (tmp_path / "model.bf16.data").read_bytes()
    rewriting.widen(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.bf16.data").read_bytes() == before
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    external = {tensor.name for tensor in proto.graph.initializer if tensor.external_data}
    assert external == {"table", "matrix"}, "the bias is in the graph"

    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Cast") == 4, (
        "of the table's rows, the table, the matrix, and the output's, which keeps its name"
    )
    # In front of all others: where weights stay bf16, ONNX Runtime then casts each just before it is used
    assert kinds[:2] == ["Cast", "Cast"]
    lookup = next(node for node in proto.graph.node if node.op_type == "Gather")
    assert lookup.input[0] == "table", "not all rows are cast for a few"

    ids = np.array([3, 0, 3, 4])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    [scores] = session.run(["scores"], {"ids": ids})
    expected = np.tanh(weights["table"][ids] @ weights["matrix"] + weights["bias"]) @ weights["table"].T
    np.testing.assert_allclose(np.asarray(scores), expected, rtol=1e-4, atol=1e-4)
