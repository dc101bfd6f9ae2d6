"""int8 weights, and activations quantised per row while running: the fast form of ONNX Runtime on CPUs.

onnxruntime's own dynamic quantisation has one scale per tensor. With one per row the embedding of a text does
not depend on the texts beside it, and the error is smaller (docs/decisions/int8.md). The pass uses
com.microsoft.MatMulIntegerToFloat, so the result is for ONNX Runtime only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..passes.surgery import Surgeon, constant_of, heads
from .quantised import Quantised
from .rows import Flats

if TYPE_CHECKING:
    import onnx_ir as ir

# Weights use 7 bits: without VNNI, x86 adds two u8 x s8 products in 16 bits, where 2 * 255 * 64 is the most
# that fits.
WEIGHT_LIMIT = 63
# Smaller products are not quantised: the passes over their activations cost what the integer product saves.
_SMALLEST_SIDE = 16
# Smaller tables (positions, token types) are not quantised: they save too little for their error.
_SMALLEST_TABLE = 1 << 18
# gelu(x) is never below -0.17. Shifted by that, its outputs are positive and use all 255 levels.
_GELU_MINIMUM = 0.17001
_TINY = np.float32(1e-12)


def quantise(model: ir.Model, keep: Collection[str] = ()) -> Quantised:
    """Gives an fp32 graph its int8 form, in place; what `keep` names stays fp32."""
    model.opset_imports["com.microsoft"] = 1
    surgeon, head_nodes = Surgeon(model, "int8"), heads(model.graph)
    products, tables, kept = [], [], []
    chosen: dict[ir.Node, NDArray[np.float32]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and (weights := _weights(node)) is not None:
            if node in head_nodes or _name(node) in keep or min(weights.shape) < _SMALLEST_SIDE:
                kept.append(_name(node))
            else:
                chosen[node] = weights
    flats = Flats(surgeon, chosen)
    rows: dict[ir.Value, _Rows] = {}
    for node in list(model.graph):
        if (weights := chosen.get(node)) is not None:
            name, x = _name(node), node.inputs[0]
            assert x is not None
            if x not in rows:
                rows[x] = _rows(surgeon, flats, node, x, weights.shape[0])
            _product(surgeon, flats, node, rows[x], weights, name)
            products.append(name)
        elif node.op_type == "Gather" and (table := _table(node)) is not None and _name(node) not in keep:
            tables.append(_name(node))
            _lookup(surgeon, node, table)
    return Quantised(tuple(products), tuple(tables), tuple(kept))


@dataclass(frozen=True, slots=True)
class _Rows:
    """One activation, quantised: [rows, width] uint8, one scale per row."""

    values: ir.Value
    scales: ir.Value
    """[rows, 1] float32"""
    source: ir.Value
    """The activation, [..., width]."""
    zero: int
    shift: float
    """What was added to every value before quantising."""


def _name(node: ir.Node) -> str:
    """Returns the name of a product or table for people."""
    position = 1 if node.op_type == "MatMul" else 0
    value = node.inputs[position]
    assert value is not None
    # The value of a folded transpose has an invented name, so the name of the node comes first.
    return node.name or value.name or "unnamed"


def _weights(node: ir.Node) -> NDArray[np.float32] | None:
    weights = constant_of(node.inputs[1])
    return weights if weights is not None and weights.ndim == 2 and weights.dtype == np.float32 else None


def _table(node: ir.Node) -> NDArray[np.float32] | None:
    table = constant_of(node.inputs[0])
    axis = node.attributes.get("axis")
    if table is None or table.ndim != 2 or table.dtype != np.float32 or table.size < _SMALLEST_TABLE:
        return None
    return table if axis is None or axis.as_int() == 0 else None


def _rows(surgeon: Surgeon, flats: Flats, node: ir.Node, x: ir.Value, width: int) -> _Rows:
    """Quantises the activation `x` in front of `node`."""
    producer = x.producer()
    positive = producer is not None and producer.op_type in ("Gelu", "Relu")
    shift = _GELU_MINIMUM if producer is not None and producer.op_type == "Gelu" else 0.0
    zero, levels = (0, 255) if positive else (128, 127)
    last = surgeon.constant("last axis", np.array([-1], np.int64))
    flat = flats.of(node, x, width)
    if shift:
        flat = surgeon.node(node, "Add", flat, surgeon.constant("gelu shift", np.array(shift, np.float32)))
    size = flat if positive else surgeon.node(node, "Abs", flat)
    largest = surgeon.node(node, "ReduceMax", size, last, keepdims=0)
    largest = surgeon.node(node, "Max", largest, surgeon.constant("tiny", np.array(_TINY, np.float32)))
    scale = surgeon.node(
        node, "Mul", largest, surgeon.constant(f"1/{levels}", np.array(1 / levels, np.float32))
    )
    return _Rows(
        values=surgeon.node(node, "QuantizeLinear", flat, scale, flats.zeros(node, x, scale, zero), axis=0),
        scales=surgeon.node(node, "Unsqueeze", scale, surgeon.constant("axis 1", np.array([1], np.int64))),
        source=x,
        zero=zero,
        shift=shift,
    )


def _product(
    surgeon: Surgeon, flats: Flats, node: ir.Node, x: _Rows, weights: NDArray[np.float32], name: str
) -> None:
    """Replaces a product: y = scale(row) * scale(column) * integers, less the shift times the column sums."""
    columns = np.maximum(np.abs(weights).max(axis=0), _TINY).astype(np.float32) / np.float32(WEIGHT_LIMIT)
    whole = np.clip(np.rint(weights / columns), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    y = surgeon.node(
        node,
        "MatMulIntegerToFloat",
        x.values,
        surgeon.constant(f"{name}/weights", whole),
        surgeon.constant("one", np.array(1, np.float32)),
        surgeon.constant(f"{name}/scales", columns),
        surgeon.constant(f"zero of {x.zero}", np.array(x.zero, np.uint8)),
        domain="com.microsoft",
    )
    y = surgeon.node(node, "Mul", y, x.scales)
    bias, add = _bias(node)
    correction = -x.shift * (whole.astype(np.float32) * columns).sum(axis=0) if x.shift else None
    if bias is not None or correction is not None:
        total = (bias if bias is not None else np.float32(0)) + (
            correction if correction is not None else np.float32(0)
        )
        y = surgeon.node(node, "Add", y, surgeon.constant(f"{name}/bias", np.asarray(total, np.float32)))
    replaced = add if add is not None else node
    flats.back(node, y, x.source, replaced.outputs[0], weights.shape[1])
    if add is not None:
        surgeon.graph.remove(add, safe=True)
    surgeon.graph.remove(node, safe=True)


def _bias(node: ir.Node) -> tuple[NDArray[np.float32] | None, ir.Node | None]:
    """Returns the constant vector added to the product, and the node that adds it; None twice where something
    else reads the bare product."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Add":
        return None, None
    add = uses[0].node
    bias = constant_of(add.inputs[1 - uses[0].idx])
    if bias is None or bias.ndim != 1 or add.outputs[0].is_graph_output():
        return None, None
    return bias.astype(np.float32), add


def _lookup(surgeon: Surgeon, node: ir.Node, table: NDArray[np.float32]) -> None:
    """Replaces an embedding table by int8 rows, each with its own scale."""
    import onnx_ir as ir

    name = _name(node)
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), _TINY).astype(np.float32) / np.float32(127)
    whole = np.rint(table / scales).astype(np.int8)
    row = surgeon.node(node, "Gather", surgeon.constant(f"{name}/rows", whole), node.inputs[1])
    scale = surgeon.node(node, "Gather", surgeon.constant(f"{name}/scales", scales), node.inputs[1])
    y = surgeon.node(node, "Mul", surgeon.node(node, "Cast", row, to=int(ir.DataType.FLOAT)), scale)
    y.shape, y.type = node.outputs[0].shape, node.outputs[0].type
    node.outputs[0].replace_all_uses_with(y)
    surgeon.graph.remove(node, safe=True)
