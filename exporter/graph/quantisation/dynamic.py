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

from ..passes.surgery import Surgeon
from .products import TINY, bias_of, columns, lower_tables, name_of, products
from .quantised import Quantised
from .rows import Flats

if TYPE_CHECKING:
    import onnx_ir as ir

# gelu(x) is never below -0.17. Shifted by that, its outputs are positive and use all 255 levels.
_GELU_MINIMUM = 0.17001


def quantise(model: ir.Model, keep: Collection[str] = ()) -> Quantised:
    """Gives an fp32 graph its int8 form, in place; what `keep` names stays fp32."""
    model.opset_imports["com.microsoft"] = 1
    surgeon = Surgeon(model, "int8")
    chosen, kept = products(model.graph, keep)
    names = tuple(map(name_of, chosen))
    flats = Flats(surgeon, chosen)
    rows: dict[ir.Value, _Rows] = {}
    for node, weights in chosen.items():
        x = node.inputs[0]
        assert x is not None
        if x not in rows:
            rows[x] = _rows(surgeon, flats, node, x, weights.shape[0])
        _product(surgeon, flats, node, rows[x], weights)
    return Quantised(names, lower_tables(surgeon, keep), kept)


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
    largest = surgeon.node(node, "Max", largest, surgeon.constant("tiny", np.array(TINY, np.float32)))
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


def _product(surgeon: Surgeon, flats: Flats, node: ir.Node, x: _Rows, weights: NDArray[np.float32]) -> None:
    """Replaces a product: y = scale(row) * scale(column) * integers, less the shift times the column sums."""
    name = name_of(node)
    whole, scales = columns(weights)
    y = surgeon.node(
        node,
        "MatMulIntegerToFloat",
        x.values,
        surgeon.constant(f"{name}/weights", whole),
        surgeon.constant("one", np.array(1, np.float32)),
        surgeon.constant(f"{name}/scales", scales),
        surgeon.constant(f"zero of {x.zero}", np.array(x.zero, np.uint8)),
        domain="com.microsoft",
    )
    y = surgeon.node(node, "Mul", y, x.scales)
    bias, add = bias_of(node)
    correction = -x.shift * (whole.astype(np.float32) * scales).sum(axis=0) if x.shift else None
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
