"""int8 weights with activations quantised per row while running: the fast integer form
of ONNX Runtime on CPUs.

Per row, not per tensor as onnxruntime's own dynamic quantisation: then a row's scale depends on that row
alone, a text's embedding does not depend on the texts beside it, and the error is smaller. Measured in
docs/decisions/int8.md. Uses com.microsoft.MatMulIntegerToFloat, so the result is for ONNX Runtime only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .rows import Flats
from .surgery import Surgeon, constant_of, heads, unguard

if TYPE_CHECKING:
    import onnx_ir as ir

# Weights use 7 bits: without VNNI, x86 adds two u8 x s8 products in 16 bits, and 2 * 255 * 64
# is the most that fits.
WEIGHT_LIMIT = 63
# Below this a product is not worth quantising: the passes over its activations cost what the
# integer product saves.
_SMALLEST_SIDE = 16
# Tables below this (positions, token types) save nothing worth their error.
_SMALLEST_TABLE = 1 << 18
# gelu(x) is never below this, so its outputs are shifted to be positive and use all 255 levels
# instead of half of them.
_GELU_MINIMUM = 0.17001
_TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Quantised:
    products: tuple[str, ...]
    """Weights that became int8."""
    tables: tuple[str, ...]
    kept: tuple[str, ...]
    """Products with weights that stay fp32: heads and those asked for."""


def int8_from_onnx(source: Path, target: Path, *, keep: Collection[str] = ()) -> Quantised:
    """Writes the int8 form of an fp32 graph. `keep` names products (as in
    `Quantised.products`) that stay fp32."""
    import onnx_ir as ir

    from ..onnx_files import save

    model = ir.load(source)
    model.opset_imports["com.microsoft"] = 1
    unguard(model)
    surgeon, final = Surgeon(model, "int8"), heads(model.graph)
    products, tables, kept = [], [], []
    chosen: dict[ir.Node, NDArray[np.float32]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and (weights := _weights(node)) is not None:
            if node in final or _name(node) in keep or min(weights.shape) < _SMALLEST_SIDE:
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
    save(model, target)
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
    """Was added to every value before quantising."""


def _name(node: ir.Node) -> str:
    position = 1 if node.op_type == "MatMul" else 0
    value = node.inputs[position]
    assert value is not None
    # A folded transpose has a made-up name; the node's own name tells more to people.
    return node.name or value.name or "unnamed"


def _weights(node: ir.Node) -> NDArray[np.float32] | None:
    found = constant_of(node.inputs[1])
    return found if found is not None and found.ndim == 2 and found.dtype == np.float32 else None


def _table(node: ir.Node) -> NDArray[np.float32] | None:
    found = constant_of(node.inputs[0])
    axis = node.attributes.get("axis")
    if found is None or found.ndim != 2 or found.dtype != np.float32 or found.size < _SMALLEST_TABLE:
        return None
    return found if axis is None or axis.as_int() == 0 else None


def _rows(surgeon: Surgeon, flats: Flats, node: ir.Node, x: ir.Value, width: int) -> _Rows:
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
    """y = scale(row) * scale(column) * integers, then the shift of the activations is taken
    out with the column sums."""
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
    """The constant vector added to the product, and the node that adds it, if nothing
    else reads the bare product."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Add":
        return None, None
    add = uses[0].node
    found = constant_of(add.inputs[1 - uses[0].idx])
    if found is None or found.ndim != 1 or add.outputs[0].is_graph_output():
        return None, None
    return found.astype(np.float32), add


def _lookup(surgeon: Surgeon, node: ir.Node, table: NDArray[np.float32]) -> None:
    """Each row of an embedding table has its own scale."""
    import onnx_ir as ir

    name = _name(node)
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), _TINY).astype(np.float32) / np.float32(127)
    whole = np.rint(table / scales).astype(np.int8)
    found = surgeon.node(node, "Gather", surgeon.constant(f"{name}/rows", whole), node.inputs[1])
    scale = surgeon.node(node, "Gather", surgeon.constant(f"{name}/scales", scales), node.inputs[1])
    y = surgeon.node(node, "Mul", surgeon.node(node, "Cast", found, to=int(ir.DataType.FLOAT)), scale)
    y.shape, y.type = node.outputs[0].shape, node.outputs[0].type
    node.outputs[0].replace_all_uses_with(y)
    surgeon.graph.remove(node, safe=True)
