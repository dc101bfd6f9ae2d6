"""Takes padding out of what works on each token alone: products, norms, activations and residual sums, which
are nine tenths of a transformer.

The pass drops rows that the attention mask leaves out in front of such nodes. Where tokens meet (attention,
pooling), it gives each text its own row again. A batch of unlike lengths then costs little more than its
tokens (docs/decisions/packing.md). Nodes are added and none is changed, so unpacking.py can undo it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .signature import PassOptions, PassResult
from .surgery import NORMS, Surgeon, constant_of, heads

if TYPE_CHECKING:
    import onnx_ir as ir

PREFIX = "packed"
"""Of the names of nodes that this pass adds."""
ROWS = "rows"
"""Name of the axis that holds all tokens that the mask admits."""
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSwish", "Identity", "LeakyRelu",
    "Log", "Max", "Min", "Mish",
    "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Swish", "Tanh",
})  # fmt: skip
_ALONG_WIDTH = frozenset({"Concat", "ReduceMax", "ReduceMean", "ReduceSum", "Split"})
_RANK = 3  # [batch, tokens, width]


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Packs a graph and counts its packed nodes. Outputs keep their shapes; padding rows repeat some other
    token.

    Does nothing where the graph returns rows that the mask leaves out, because they would be lost, and a
    window may leave them without a key.
    """
    if not options.attends_all:
        return PassResult(0)
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == "attention_mask"), None)
    chosen = _chosen(graph)
    if mask is None or not any(node.op_type == "MatMul" for node in chosen):
        return PassResult(0)
    packing = _Packing(model, mask, chosen)
    for node in list(graph):
        if node in chosen:
            packing.enter(node)
    for node in chosen:
        for value in node.outputs:
            packing.leave(value)
    return PassResult(len(chosen))


class _Packing:
    """The rewriting of one graph: `enter` for the inputs of packed nodes, then `leave` for their outputs."""

    def __init__(self, model: ir.Model, mask: ir.Value, chosen: dict[ir.Node, None]) -> None:
        self._surgeon, self._chosen, self._mask = Surgeon(model, PREFIX), chosen, mask
        self._packed = {output for node in chosen for output in node.outputs}
        self._entered: dict[ir.Value, ir.Value] = {}
        self._outputs = {id(value): index for index, value in enumerate(model.graph.outputs)}
        self._positions = {node: place for place, node in enumerate(model.graph)}
        self._index(next(iter(model.graph)))

    def _index(self, first: ir.Node) -> None:
        """Adds two index vectors in front of `first`: for each packed row its place in the padded form, and
        for each padded row its packed row (for padding: any row that exists)."""
        add, constant = self._surgeon.node, self._surgeon.constant
        flat = add(first, "Reshape", self._mask, constant("all", np.array([-1], np.int64)))
        admitted = add(first, "NonZero", flat)
        self._kept = add(first, "Reshape", admitted, constant("all", np.array([-1], np.int64)))
        zero, unit = constant("zero", np.array(0, np.int64)), constant("one", np.array(1, np.int64))
        before = add(first, "Sub", add(first, "CumSum", flat, zero), unit)
        self._place = add(first, "Reshape", add(first, "Max", before, zero), add(first, "Shape", self._mask))

    def enter(self, node: ir.Node) -> None:
        """Packs, in front of the node, every padded value that it reads."""
        for index, value in enumerate(node.inputs):
            if value is None or value in self._packed or constant_of(value) is not None:
                continue
            if value not in self._entered:
                width = _width(value)
                flat = self._surgeon.node(
                    node,
                    "Reshape",
                    value,
                    self._surgeon.constant(f"rows of {width}", np.array([-1, width], np.int64)),
                )
                self._entered[value] = self._shaped(
                    self._surgeon.node(node, "Gather", flat, self._kept, axis=0), value
                )
            node.replace_input_with(index, self._entered[value])

    def leave(self, value: ir.Value) -> None:
        """Pads a packed value for its readers that are not packed."""
        readers = [use for use in value.uses() if use.node not in self._chosen]
        for use in [use for use in readers if _reads_leading_axes(use.node)]:
            use.node.replace_input_with(use.idx, self._mask)
            readers.remove(use)
        index = self._outputs.get(id(value))
        shape, kind, name = value.shape, value.type, value.name
        if readers or index is not None:
            first = min((use.node for use in readers), key=self._positions.__getitem__, default=None)
            padded = self._surgeon.node(first, "Gather", value, self._place, axis=0)
            padded.shape, padded.type = shape, kind
            for use in readers:
                use.node.replace_input_with(use.idx, padded)
            if index is not None:
                value.name, padded.name = f"{PREFIX}/{name}", name
                self._surgeon.graph.outputs[index] = padded
        self._shaped(value, value)

    def _shaped(self, rows: ir.Value, like: ir.Value) -> ir.Value:
        """Gives `rows` the packed shape and the type of `like`; returns it."""
        import onnx_ir as ir

        rows.type = like.type
        rows.shape = ir.Shape([ROWS, like.shape[-1]]) if like.shape is not None else None
        return rows


def _chosen(graph: ir.Graph) -> dict[ir.Node, None]:
    """Returns the nodes to pack, in order: products and norms of [batch, tokens, width], and what works on
    their results elementwise. Heads are left out: they are pooled next, so packing them does not pay."""
    final = heads(graph)
    chosen: dict[ir.Node, None] = {}
    packed: set[ir.Value] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None and constant_of(value) is None]
        if (
            node in final
            or not read
            or not all(value in packed or _width(value) for value in read)
            or not _is_rowwise(node)
        ):
            continue
        if not _begins(node) and not (
            any(value in packed for value in read)
            and all(_width(value) != 1 or value in packed for value in read)
        ):
            continue
        chosen[node] = None
        packed.update(node.outputs)
    return chosen


def _begins(node: ir.Node) -> bool:
    """Whether packing may begin at the node: it costs more than the index that packs its input."""
    return node.op_type == "MatMul" or node.op_type in NORMS


def _is_rowwise(node: ir.Node) -> bool:
    """Whether it computes each token alone and all in the same way, on any axes before the last."""
    if node.domain not in ("", "ai.onnx"):
        return False
    constants = [constant for value in node.inputs if (constant := constant_of(value)) is not None]
    if node.op_type == "MatMul":
        weights = constant_of(node.inputs[1])
        return weights is not None and weights.ndim == 2
    if node.op_type in NORMS or node.op_type == "Concat":
        return _axis(node) == -1 and _are_flat(constants)
    if node.op_type == "Split":
        return _axis(node) == -1
    if node.op_type in _ALONG_WIDTH:
        kept = node.attributes.get("keepdims")
        return (kept is None or kept.as_int() == 1) and len(constants) == 1 and constants[0].tolist() == [-1]
    return node.op_type in _ELEMENTWISE and _are_flat(constants)


def _axis(node: ir.Node) -> int | None:
    """Returns the axis attribute, or its default for norms; None where there is neither."""
    axis = node.attributes.get("axis")
    if axis is not None:
        return axis.as_int()
    return -1 if node.op_type in NORMS else None


def _are_flat(constants: Iterable[np.ndarray]) -> bool:
    """Whether all of them have the last axis only, or no axis."""
    return all(constant.ndim <= 1 for constant in constants)


def _width(value: ir.Value) -> int | None:
    """Returns the width of a [batch, tokens, width] value; None for any other shape."""
    if (
        value.shape is None
        or len(value.shape) != _RANK
        or [str(axis) for axis in list(value.shape)[:2]] != ["batch", "tokens"]
    ):
        return None
    width = value.shape[2]
    return width if isinstance(width, int) else None


def _reads_leading_axes(node: ir.Node) -> bool:
    """Whether it reads the number of texts or tokens only, which the mask has too."""
    end = node.attributes.get("end")
    return node.op_type == "Shape" and end is not None and 0 < end.as_int() < _RANK
