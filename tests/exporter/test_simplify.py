"""Conditions that always hold are taken out of masks, and no others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser
from poolrt.exporter.graph.passes import simplify
from poolrt.exporter.graph.passes.signature import PassOptions

TOKENS = 5
NODES = (
    "size = Shape<start=1, end=2>(mask)\n n = Squeeze(size)\n r = Range(zero, n, one)\n"
    " q = Unsqueeze(r, rows)\n c = GreaterOrEqual(q, {least})\n a = And(yes, c)\n b = Cast<to=9>(mask)\n"
    " p = Unsqueeze(b, middle)\n m = And(a, p)\n w = Where(m, none, never)\n s = MatMul(x, x)\n y = {result}"
)


def graph(least: str, result: str) -> ir.Model:
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (int64[batch,tokens] mask, float[batch,1,tokens,tokens] x) => (float[batch,1,tokens,tokens] y) "
        "<int64 zero={0}, int64 one={1}, bool yes={1}, int64[3] rows={0,1,3}, "
        "int64[2] middle={1,2}, float none={0}, float never={-1e38}>{ "
        + NODES.format(least=least, result=result)
        + "}"
    )
    model = ir.from_proto(proto)
    shapes = {
        **dict.fromkeys("qca", (1, 1, "tokens", 1)),
        "p": ("batch", 1, 1, "tokens"),
        **dict.fromkeys("mw", ("batch", 1, "tokens", "tokens")),
    }
    for node in model.graph:
        if (shape := shapes.get(node.outputs[0].name or "")) is not None:
            node.outputs[0].shape = ir.Shape(shape)
    return model


@pytest.mark.parametrize(
    ("least", "result", "rows"),
    [
        ("zero", "Add(s, w)", ["batch", "1", "1", "tokens"]),
        ("one", "Add(s, w)", ["batch", "1", "tokens", "tokens"]),
        ("zero", "Mul(s, w)", ["batch", "1", "tokens", "tokens"]),
        ("zero", "Add(x, w)", ["batch", "1", "tokens", "tokens"]),
    ],
    ids=["always", "not always", "not added", "not to scores"],
)
def test_a_condition_that_always_holds_makes_no_mask_of_pairs(
    least: str, result: str, rows: list[str]
) -> None:
    model = graph(least, result)
    before = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    simplify.run(model, PassOptions())
    (mask,) = [node for node in model.graph if node.op_type == "Where"]
    assert [str(axis) for axis in mask.outputs[0].shape or ()] == rows
    assert ("And" in {node.op_type for node in model.graph}) == (rows[2] != "1")
    after = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    random = np.random.default_rng(0)
    lengths = np.array([[TOKENS], [2]])
    feed = {
        "mask": (np.arange(TOKENS) < lengths).astype(np.int64),
        "x": random.standard_normal((2, 1, TOKENS, TOKENS), np.float32),
    }
    np.testing.assert_array_equal(after.run(None, feed)[0], before.run(None, feed)[0])
