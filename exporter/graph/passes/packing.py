"""Takes padding out of what works on each token alone: products, norms, activations and residual sums, nine
tenths of a transformer.

Rows that the attention mask leaves out are dropped in front of such a stretch, and only where tokens meet
(attention, pooling) is each text given its own row again. A batch of unlike lengths then costs little more
than its tokens. Nodes are added, none is changed: `unpack` takes them out again, for engines whose shapes
are fixed before they run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .surgery import NORMS, Surgeon, constant_of, heads

if TYPE_CHECKING:
    import onnx_ir as ir

_PREFIX = "packed"
_ROWS = "rows"
"""Name of the axis of all tokens that the mask admits."""
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSwish", "Identity", "LeakyRelu",
    "Log", "Max", "Min", "Mish",
    "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Swish", "Tanh",
})  # fmt: skip
_ALONG_WIDTH = frozenset({"Concat", "ReduceMax", "ReduceMean", "ReduceSum", "Split"})
_RANK = 3  # [batch, tokens, width]


def pack(model: ir.Model) -> bool:
    """Packs a graph in place; answers whether there was anything to pack. Outputs keep their shapes; rows of
    padding hold some other token's numbers."""
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == "attention_mask"), None)
    chosen = _chosen(graph)
    if mask is None or not any(node.op_type == "MatMul" for node in chosen):
        return False
    packing = _Packing(model, mask, chosen)
    for node in list(graph):
        if node in chosen:
            packing.enter(node)
    for node in chosen:
        for value in node.outputs:
            packing.leave(value)
    return True


def unpack(model: ir.Model) -> None:
    """Takes out in place what `pack` put in; a graph that was not packed stays as it is."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    outputs = {id(value): index for index, value in enumerate(model.graph.outputs)}
    for node in list(model.graph):
        if node.op_type != "Gather" or not (node.name or "").startswith(f"{_PREFIX}/"):
            continue
        source, made = node.inputs[0], node.outputs[0]
        assert source is not None
        before = source.producer()
        if (
            before is not None
            and before.op_type == "Reshape"
            and (before.name or "").startswith(f"{_PREFIX}/")
        ):
            source = before.inputs[0]
            assert source is not None
        made.replace_all_uses_with(source)
        if (index := outputs.get(id(made))) is not None:
            name, made.name = made.name, f"{_PREFIX}/gone"
            source.name, source.shape, source.type = name, made.shape, made.type
            model.graph.outputs[index] = source
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and len(value.shape) > 0 and str(value.shape[0]) == _ROWS:
                value.shape = ir.Shape(["batch", "tokens", *list(value.shape)[1:]])
    passes.RemoveUnusedNodesPass()(model)


class _Packing:
    def __init__(self, model: ir.Model, mask: ir.Value, chosen: dict[ir.Node, None]) -> None:
        self._surgeon, self._chosen, self._mask = Surgeon(model, _PREFIX), chosen, mask
        self._made = {output for node in chosen for output in node.outputs}
        self._entered: dict[ir.Value, ir.Value] = {}
        self._outputs = {id(value): index for index, value in enumerate(model.graph.outputs)}
        self._positions = {node: place for place, node in enumerate(model.graph)}
        self._index(next(iter(model.graph)))

    def _index(self, first: ir.Node) -> None:
        """Where each row of the packed form stands in the padded one, and the other way round
        (padding: some row that exists)."""
        make, constant = self._surgeon.node, self._surgeon.constant
        flat = make(first, "Reshape", self._mask, constant("all", np.array([-1], np.int64)))
        found = make(first, "NonZero", flat)
        self._kept = make(first, "Reshape", found, constant("all", np.array([-1], np.int64)))
        zero, one = constant("zero", np.array(0, np.int64)), constant("one", np.array(1, np.int64))
        before = make(first, "Sub", make(first, "CumSum", flat, zero), one)
        self._place = make(
            first, "Reshape", make(first, "Max", before, zero), make(first, "Shape", self._mask)
        )

    def enter(self, node: ir.Node) -> None:
        """Everything the node reads that is padded is packed in front of it."""
        for index, value in enumerate(node.inputs):
            if value is None or value in self._made or constant_of(value) is not None:
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
        """A packed value is padded for those of its readers that are not packed."""
        readers = [use for use in value.uses() if use.node not in self._chosen]
        for use in [use for use in readers if _asks_for_leading(use.node)]:
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
                value.name, padded.name = f"{_PREFIX}/{name}", name
                self._surgeon.graph.outputs[index] = padded
        self._shaped(value, value)

    def _shaped(self, rows: ir.Value, like: ir.Value) -> ir.Value:
        import onnx_ir as ir

        rows.type = like.type
        rows.shape = ir.Shape([_ROWS, like.shape[-1]]) if like.shape is not None else None
        return rows


def _chosen(graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes that are packed, in order: products and norms of [batch, tokens, width], and what works on
    their results elementwise. Heads are not: what is pooled next is not worth it."""
    final = heads(graph)
    chosen: dict[ir.Node, None] = {}
    made: set[ir.Value] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None and constant_of(value) is None]
        if (
            node in final
            or not read
            or not all(value in made or _width(value) for value in read)
            or not _is_rowwise(node)
        ):
            continue
        if not _begins(node) and not (
            any(value in made for value in read)
            and all(_width(value) != 1 or value in made for value in read)
        ):
            continue
        chosen[node] = None
        made.update(node.outputs)
    return chosen


def _begins(node: ir.Node) -> bool:
    return node.op_type == "MatMul" or node.op_type in NORMS


def _is_rowwise(node: ir.Node) -> bool:
    """Whether it treats every token alike and apart, on whatever axes stand before the last one."""
    if node.domain not in ("", "ai.onnx"):
        return False
    constants = [
        found for value in node.inputs if value is not None and (found := constant_of(value)) is not None
    ]
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
    axis = node.attributes.get("axis")
    if axis is not None:
        return axis.as_int()
    return -1 if node.op_type in NORMS else None


def _are_flat(constants: Iterable[np.ndarray]) -> bool:
    """Whether all of them stretch along the last axis alone."""
    return all(found.ndim <= 1 for found in constants)


def _width(value: ir.Value) -> int | None:
    """Of a [batch, tokens, width]; None for anything else."""
    if (
        value.shape is None
        or len(value.shape) != _RANK
        or [str(axis) for axis in list(value.shape)[:2]] != ["batch", "tokens"]
    ):
        return None
    width = value.shape[2]
    return width if isinstance(width, int) else None


def _asks_for_leading(node: ir.Node) -> bool:
    """Whether it asks for the number of texts or tokens only, which the mask tells as well."""
    end = node.attributes.get("end")
    return node.op_type == "Shape" and end is not None and 0 < end.as_int() < _RANK
