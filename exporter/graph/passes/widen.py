"""Processors' form of a bf16 graph: the same stored weights, cast to float32 where they are used.

ONNX Runtime has no bf16 arithmetic on processors, but it casts from bf16. So every bf16 value of the graph
becomes float32, and only the stored weights stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .signature import PassOptions, PassResult
from .surgery import Surgeon

if TYPE_CHECKING:
    import onnx_ir as ir

_SMALL_BYTES = 1024
"""Weights up to this size are in the graph's file, and are stored in float32 there."""


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Gives a bf16 graph float32 arithmetic and counts the weights that are cast."""
    import onnx_ir as ir

    graph, surgeon = model.graph, Surgeon(model, "wide")
    low, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes["to"].as_int() == low:
            node.attributes["to"] = ir.AttrInt64("to", int(wide))
        for value in node.outputs:
            if value.dtype == low:
                value.type = ir.TensorType(wide)
    casts = [
        cast
        for value in list(graph.initializers.values())
        if value.dtype == low
        for cast in _widened(surgeon, value)
    ]
    # ONNX Runtime runs a node that depends on no other just before its result is read only if the node stands
    # in front of those it could run instead. Otherwise it casts all weights first, and holds them all.
    first = next(iter(graph), None)
    if first is not None:
        graph.insert_before(first, casts)
    _bypass(model)
    return PassResult(len(casts))


def _widened(surgeon: Surgeon, weight: ir.Value) -> list[ir.Node]:
    """Replaces the uses of a bf16 weight by float32 values; returns the cast that is still in no graph.

    A table is cast behind the lookup, row by row.
    """
    import onnx_ir as ir

    wide = ir.DataType.FLOAT
    tensor = weight.const_value
    assert tensor is not None, f"{weight.name}: a weight without contents"
    if tensor.nbytes <= _SMALL_BYTES:
        weight.replace_all_uses_with(surgeon.constant(f"{weight.name}", tensor.numpy().astype(np.float32)))
        return []
    lookups = [node for node, index in weight.uses() if node.op_type == "Gather" and index == 0]
    others = [(node, index) for node, index in weight.uses() if node not in lookups or index != 0]
    for node in lookups:
        rows = node.outputs[0]
        rows.type = ir.TensorType(ir.DataType.BFLOAT16)
        cast = ir.node("Cast", [rows], attributes={"to": int(wide)}, name=f"{node.name}/wide")
        cast.outputs[0].name, cast.outputs[0].shape = f"{rows.name}/wide", rows.shape
        cast.outputs[0].type = ir.TensorType(wide)
        for reader, index in list(rows.uses()):
            if reader is not cast:
                reader.replace_input_with(index, cast.outputs[0])
        surgeon.graph.insert_after(node, cast)
    if not others:
        return []
    cast = ir.node("Cast", [weight], attributes={"to": int(wide)}, name=f"{weight.name}/wide")
    cast.outputs[0].name, cast.outputs[0].shape = f"{weight.name}/wide", weight.shape
    cast.outputs[0].type = ir.TensorType(wide)
    for node, index in others:
        node.replace_input_with(index, cast.outputs[0])
    return [cast]


def _bypass(model: ir.Model) -> None:
    """Removes the casts between the two precisions, which now change nothing. Outputs keep their names."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    for node in model.graph:
        source = node.inputs[0] if node.op_type == "Cast" else None
        result = node.outputs[0]
        if source is None or source.dtype != result.dtype or source.dtype != ir.DataType.FLOAT:
            continue
        if not result.is_graph_output():
            result.replace_all_uses_with(source)
    passes.RemoveUnusedNodesPass()(model)
