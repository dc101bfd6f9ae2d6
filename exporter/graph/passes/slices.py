"""Pools vocabulary logits [batch, tokens, vocabulary] slice by slice, so that they are never all in memory.

SPLADE's head multiplies every token with the vocabulary's table and keeps the maximum, or the sum, over the
tokens of a text. The pass cuts the table into slices of `WIDTH` columns, pools the logits of each slice, and
joins the pooled vectors. A token then takes no more memory than in a feed-forward layer
(docs/decisions/memory.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .signature import PassOptions, PassResult
from .surgery import Surgeon, constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

PREFIX = "slices"
"""Of the names of nodes that this pass adds."""
WIDTH = 2048
"""Columns of a slice. Measured: docs/decisions/memory.md."""
_POOLED = frozenset({"ReduceMax", "ReduceSum"})
_ELEMENTWISE = frozenset({"Add", "Cast", "Div", "Identity", "Log", "Mul", "Relu", "Sub", "Tanh"})
_TOKENS = [1]
"""The pooled axis of [batch, tokens, vocabulary]."""
_MATRIX, _RANK = 2, 3


@runtime_checkable
class Cuttable(Protocol):
    """A weight that is not in memory (streaming.Weight)."""

    def columns(self, first: int, last: int, name: str) -> ir.TensorProtocol:
        """Returns those of its columns as another such weight."""
        ...


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Slices pooled logits in place and counts the places."""
    import onnx_ir.passes.common as passes

    surgeon, sliced = Surgeon(model, PREFIX), 0
    for node in list(model.graph):
        if node.op_type in _POOLED and _pools_tokens(node) and (chain := _chain(node)) is not None:
            _slice(surgeon, chain, node)
            sliced += 1
    if sliced:
        passes.RemoveUnusedNodesPass()(model)
    return PassResult(sliced)


def in_slices(model: ir.Model) -> bool:
    """Whether the pass changed the graph."""
    return any(node.name is not None and node.name.startswith(f"{PREFIX}/") for node in model.graph)


def _pools_tokens(node: ir.Node) -> bool:
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    keeps = node.attributes.get("keepdims")
    return axes is not None and axes.tolist() == _TOKENS and keeps is not None and keeps.as_int() == 0


def _chain(pool: ir.Node) -> list[ir.Node] | None:
    """Returns the product that `pool` reads and the elementwise nodes between the two, in order; None where
    none is so wide, or where something else reads the logits."""
    chain: list[ir.Node] = []
    value = pool.inputs[0]
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None:
            return None
        chain.append(node)
        if node.op_type == "MatMul":
            return chain[::-1] if _columns(node) > WIDTH else None
        rest = [operand for operand in node.inputs if not _is_beside(operand)]
        if node.op_type not in _ELEMENTWISE or len(rest) != 1:
            return None
        value = rest[0]
    return None


def _columns(product: ir.Node) -> int:
    """Returns the columns of the constant matrix that a product reads; 0 where it reads none."""
    table = product.inputs[1]
    shape = table.const_value.shape if table is not None and table.const_value is not None else ()
    return int(shape[1]) if len(shape) == _MATRIX else 0  # pyright: ignore[reportArgumentType]


def _is_beside(value: ir.Value | None) -> bool:
    """Whether it is a constant of at most one axis, or has one column: [batch, tokens, 1]."""
    if value is None:
        return True
    if value.const_value is not None:
        return len(value.const_value.shape) < _MATRIX
    return value.shape is not None and len(value.shape) == _RANK and value.shape[-1] == 1


def _slice(surgeon: Surgeon, chain: list[ir.Node], pool: ir.Node) -> None:
    """Replaces `pool`, and the nodes of `chain` that lead to it, by one copy of them for each slice."""
    columns = _columns(chain[0])
    parts: list[ir.Value] = []
    for first in range(0, columns, WIDTH):
        last = min(first + WIDTH, columns)
        copies: dict[ir.Value, ir.Value] = {}
        for node in (*chain, pool):
            inputs = [
                copies.get(value) or _cut(surgeon, value, first, last, columns) if value is not None else None
                for value in node.inputs
            ]
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            copy = surgeon.node(pool, node.op_type, *inputs, **attributes)
            copies[node.outputs[0]] = _like(copy, node.outputs[0], last - first)
        parts.append(copies[pool.outputs[0]])
    surgeon.replace(pool, surgeon.node(pool, "Concat", *parts, axis=-1))


def _cut(surgeon: Surgeon, value: ir.Value, first: int, last: int, columns: int) -> ir.Value:
    """Returns the slice of a constant that has the vocabulary's columns; other values as they are."""
    tensor = value.const_value
    if tensor is None or not len(tensor.shape) or tensor.shape[-1] != columns:
        return value
    name = f"{value.name}/{first}"
    if isinstance(tensor, Cuttable):
        return surgeon.attach(tensor.columns(first, last, name))
    return surgeon.constant(name, tensor.numpy()[..., first:last])


def _like(value: ir.Value, other: ir.Value, columns: int) -> ir.Value:
    """Gives `value` the type and shape of `other`, with so many columns; returns it."""
    import onnx_ir as ir

    value.type = other.type
    value.shape = None if other.shape is None else ir.Shape([*list(other.shape)[:-1], columns])
    return value
