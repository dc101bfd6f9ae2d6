"""One writer of graphs: whatever a graph was made of, what is written needs no other file
than those that are named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from poolrt.exporter.base import large
from poolrt.exporter.graph import onnx_files

X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
MATRIX = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
BIAS = np.arange(32, dtype=np.float32)
assert BIAS.nbytes <= onnx_files._SMALL_BYTES < MATRIX.nbytes


def product() -> ir.Model:
    """x [2, 64] -> x · MATRIX + BIAS, and a weight that no node reads."""
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(X.shape))
    weights = [
        ir.Value(
            name=name, const_value=ir.tensor(array, name=name), type=float32, shape=ir.Shape(array.shape)
        )
        for name, array in (("matrix", MATRIX), ("bias", BIAS), ("unused", MATRIX))
    ]
    multiplied = ir.node("MatMul", [x, weights[0]])
    added = ir.node("Add", [multiplied.outputs[0], weights[1]])
    added.outputs[0].name, added.outputs[0].type, added.outputs[0].shape = "y", float32, ir.Shape((2, 32))
    graph = ir.Graph(
        [x],
        added.outputs,
        nodes=[multiplied, added],
        initializers=weights,
        opset_imports={"": 20},
        name="product",
    )
    return ir.Model(graph, ir_version=10)


def run(path: Path) -> NDArray[np.float32]:
    output: Any = onnxruntime.InferenceSession(path).run(None, {"x": X})[0]
    return output


@pytest.mark.parametrize(
    "limit", [MATRIX.nbytes + BIAS.nbytes, MATRIX.nbytes + BIAS.nbytes - 1], ids=["fits", "does not fit"]
)
def test_weights_that_do_not_fit_stand_beside_the_graph(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(large, "FILE_BYTES", limit)
    digests = onnx_files.save(product(), tmp_path / "model.onnx")
    fits = limit >= MATRIX.nbytes + BIAS.nbytes
    assert tuple(digests) == onnx_files.beside(tmp_path / "model.onnx") == (() if fits else ("model.data",))
    for name, digest in digests.items():
        assert (tmp_path / name).stat().st_size == MATRIX.nbytes, (
            "the small and the unused weights are not in it"
        )
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    np.testing.assert_allclose(run(tmp_path / "model.onnx"), X @ MATRIX + BIAS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("apart", [False, True])
def test_a_rewritten_graph_needs_no_file_of_its_source(apart: bool, tmp_path: Path):
    model = product()
    ir.save(model, tmp_path / "source.onnx", external_data="source.data", size_threshold_bytes=0)
    rewritten = ir.load(tmp_path / "source.onnx")
    onnx_files.save(rewritten, tmp_path / "model.onnx", apart=apart)
    for name in ("source.onnx", "source.data"):
        (tmp_path / name).unlink()
    np.testing.assert_allclose(run(tmp_path / "model.onnx"), X @ MATRIX + BIAS, rtol=1e-5, atol=1e-5)
