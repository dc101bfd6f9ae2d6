"""int8 whose scales are constants of the graph, in the standard operators that all engines know.

Each product reads QuantizeLinear and DequantizeLinear of its input and DequantizeLinear of its weights.
ONNX Runtime and OpenVINO fuse them into one integer product (docs/decisions/int8.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..passes.surgery import Surgeon
from .activations import Activation
from .products import bias_of, columns, lower_tables, name_of, products
from .quantised import Quantised
from .rows import is_flat

if TYPE_CHECKING:
    import onnx_ir as ir

# A larger bias would not fit into 32 bits in units of the product's own scale.
_MOST_UNITS = 1 << 30


def readers(model: ir.Model) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Name of an activation -> the products that read it, with their weights [width, columns]."""
    read: dict[str, dict[str, NDArray[np.float32]]] = {}
    for node, weights in products(model.graph)[0].items():
        read.setdefault(_input(node).name or "", {})[name_of(node)] = weights
    return read


def observe(model: ir.Model) -> tuple[str, ...]:
    """Makes every activation that products read an output of the graph; returns their names."""
    import onnx_ir as ir

    values = dict.fromkeys(_input(node) for node in products(model.graph)[0])
    for value in values:
        if not value.is_graph_output():
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(value)
    return tuple(value.name or "" for value in values)


def quantise(model: ir.Model, activations: Mapping[str, Activation], keep: Collection[str] = ()) -> Quantised:
    """Gives an fp32 graph its int8 form, in place; what `keep` names stays fp32.

    Args:
        activations: by the names of `readers`. Products that read others stay fp32 too.
    """
    every = readers(model)
    unseen = {name for label, of in every.items() if label not in activations for name in of}
    surgeon = Surgeon(model, "int8")
    chosen, kept = products(model.graph, {*keep, *unseen})
    names = tuple(map(name_of, chosen))
    integers: dict[ir.Value, ir.Value] = {}
    for node, weights in chosen.items():
        x, name = _input(node), name_of(node)
        activation, label = activations[x.name or ""], x.name or ""
        if x not in integers:
            integers[x] = _integers(surgeon, node, x, activation, label)
        correction = activation.corrections[list(every[label]).index(name)]
        _product(surgeon, node, integers[x], activation, label, weights, correction)
    return Quantised(names, lower_tables(surgeon, keep), kept)


def _input(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None, "a product has an input"
    return x


def _integers(surgeon: Surgeon, node: ir.Node, x: ir.Value, activation: Activation, label: str) -> ir.Value:
    if activation.smoothing is not None:
        inverse = surgeon.constant(f"{label}/smoothing", (1 / activation.smoothing).astype(np.float32))
        shape, kind = x.shape, x.type
        x = surgeon.node(node, "Mul", x, inverse)
        x.shape, x.type = shape, kind
    return surgeon.node(node, "QuantizeLinear", x, *_scale(surgeon, activation, label))


def _scale(surgeon: Surgeon, activation: Activation, label: str) -> Sequence[ir.Value]:
    return (
        surgeon.constant(f"{label}/scale", np.array(activation.scale, np.float32)),
        surgeon.constant(f"{label}/zero", np.array(activation.zero, np.uint8)),
    )


def _product(
    surgeon: Surgeon,
    node: ir.Node,
    integers: ir.Value,
    activation: Activation,
    label: str,
    weights: NDArray[np.float32],
    correction: NDArray[np.float32],
) -> None:
    """Replaces a product and the bias behind it."""
    name, width = name_of(node), weights.shape[1]
    if activation.smoothing is not None:
        weights = weights * activation.smoothing[:, None]
    whole, scales = columns(weights)
    x = surgeon.node(node, "DequantizeLinear", integers, *_scale(surgeon, activation, label))
    column_scales = surgeon.constant(f"{name}/scales", scales)
    zeros = surgeon.constant(f"zeros of {width}", np.zeros(width, np.int8))
    matrix = surgeon.constant(f"{name}/weights", whole)
    dequantised = surgeon.node(node, "DequantizeLinear", matrix, column_scales, zeros, axis=1)
    y = surgeon.node(node, "MatMul", x, dequantised)
    bias, add = bias_of(node)
    total = correction if bias is None else bias + correction
    y = surgeon.node(
        node,
        "Add",
        y,
        _bias(surgeon, node, name, total, activation.scale * scales, flat=is_flat(_input(node))),
    )
    replaced = node if add is None else add
    y.shape, y.type = replaced.outputs[0].shape, replaced.outputs[0].type
    replaced.outputs[0].replace_all_uses_with(y)
    if add is not None:
        surgeon.graph.remove(add, safe=True)
    surgeon.graph.remove(node, safe=True)


def _bias(
    surgeon: Surgeon,
    node: ir.Node,
    name: str,
    bias: NDArray[np.float32],
    units: NDArray[np.float32],
    *,
    flat: bool,
) -> ir.Value:
    """A bias [columns]. Of [rows, width] it is in whole units of the sums, as ONNX Runtime's integer Gemm
    adds it."""
    whole = np.rint(bias.astype(np.float64) / units)
    if not flat or np.abs(whole).max() >= _MOST_UNITS:
        return surgeon.constant(f"{name}/bias", bias.astype(np.float32))
    return surgeon.node(
        node,
        "DequantizeLinear",
        surgeon.constant(f"{name}/bias", whole.astype(np.int32)),
        surgeon.constant(f"{name}/units", units.astype(np.float32)),
        axis=0,
    )
