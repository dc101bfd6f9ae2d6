"""What may be quantised in a graph, and what all kinds of quantisation do alike: weights to 7 bits, tables to
8 bits a row."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..passes.surgery import Surgeon, constant_of, heads

if TYPE_CHECKING:
    import onnx_ir as ir

# Weights use 7 bits: without VNNI, x86 adds two u8 x s8 products in 16 bits, where 2 * 255 * 64 is the most
# that fits.
WEIGHT_LIMIT = 63
# Smaller products are not quantised: the passes over their activations cost what the integer product saves.
SMALLEST_SIDE = 16
# Smaller tables (positions, token types) are not quantised: they save too little for their error.
SMALLEST_TABLE = 1 << 18
TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A constant float32 matrix that is read when it is needed."""

    shape: tuple[int, int]
    read: Callable[[], NDArray[np.float32]]


def matrix_of(value: ir.Value | None) -> Matrix | None:
    """Returns the matrix that a value is; an initialiser is not read for it."""
    import onnx_ir as ir

    tensor = None if value is None else value.const_value
    if tensor is not None:
        if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            return None
        return Matrix(tuple(map(int, tensor.shape)), tensor.numpy)  # pyright: ignore[reportArgumentType]
    array = constant_of(value)
    if array is None or array.ndim != 2 or array.dtype != np.float32:
        return None
    return Matrix(array.shape, lambda: array)


def table_of(node: ir.Node) -> Matrix | None:
    """Returns the embedding table that a Gather reads by rows, if it is large enough to be quantised."""
    if node.op_type != "Gather" or (table := matrix_of(node.inputs[0])) is None:
        return None
    axis = node.attributes.get("axis")
    rows_first = axis is None or axis.as_int() == 0
    return table if rows_first and table.shape[0] * table.shape[1] >= SMALLEST_TABLE else None


def products(
    graph: ir.Graph, keep: Collection[str] = ()
) -> tuple[dict[ir.Node, NDArray[np.float32]], tuple[str, ...]]:
    """Returns the products to quantise, in the order of the graph, with their weights [inputs, columns]; and
    the names of those that stay fp32: small ones, heads and `keep`."""
    head_nodes = heads(graph)
    chosen: dict[ir.Node, NDArray[np.float32]] = {}
    kept: list[str] = []
    for node in graph:
        if node.op_type == "MatMul" and (matrix := matrix_of(node.inputs[1])) is not None:
            if node in head_nodes or name_of(node) in keep or min(matrix.shape) < SMALLEST_SIDE:
                kept.append(name_of(node))
            else:
                chosen[node] = matrix.read()
    return chosen, tuple(kept)


def name_of(node: ir.Node) -> str:
    """Returns the name of a product or table for people."""
    position = 1 if node.op_type == "MatMul" else 0
    value = node.inputs[position]
    assert value is not None
    # The value of a folded transpose has an invented name, so the name of the node comes first.
    return node.name or value.name or "unnamed"


def columns(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns the weights in -63..63, and the scale of each column."""
    scales = np.maximum(np.abs(weights).max(axis=0), TINY).astype(np.float32) / np.float32(WEIGHT_LIMIT)
    return np.clip(np.rint(weights / scales), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scales


def bias_of(node: ir.Node) -> tuple[NDArray[np.float32] | None, ir.Node | None]:
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


def lower_tables(surgeon: Surgeon, keep: Collection[str] = ()) -> tuple[str, ...]:
    """Replaces large embedding tables by int8 rows, each with its own scale; returns their names."""
    names: list[str] = []
    for node in list(surgeon.graph):
        table = table_of(node)
        if table is not None and (name := name_of(node)) not in keep:
            names.append(name)
            whole, scales = rows(table.read())
            look_up(
                surgeon,
                node,
                surgeon.constant(f"{name}/rows", whole),
                surgeon.constant(f"{name}/scales", scales),
            )
    return tuple(names)


def rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns an embedding table in -127..127, and the scale of each row, [rows, 1]."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), TINY).astype(np.float32) / np.float32(127)
    return np.rint(table / scales).astype(np.int8), scales


def look_up(surgeon: Surgeon, node: ir.Node, whole: ir.Value, scales: ir.Value) -> None:
    """Replaces the Gather of an embedding table by one of its int8 rows and one of their scales."""
    import onnx_ir as ir

    row = surgeon.node(node, "Gather", whole, node.inputs[1])
    scale = surgeon.node(node, "Gather", scales, node.inputs[1])
    number = surgeon.node(node, "Cast", row, to=int(ir.DataType.FLOAT))
    surgeon.replace(node, surgeon.node(node, "Mul", number, scale))
