"""Reshapes between [batch, tokens, width] and the [rows, width] that quantised products take.

Each reshape is a node, and a short text costs more in nodes than in arithmetic. So shapes that many products
share are computed once, an activation between two products stays flat, and two reshapes in a row become one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ..passes.surgery import Surgeon, constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

# What may stand between two products of a feed-forward block, element by element.
_ELEMENTWISE = frozenset(
    {"Gelu", "Relu", "Sigmoid", "Tanh", "Erf", "Mul", "Add", "Div", "Sub", "Swish", "Mish"}
)


class Flats:
    """The flat form of activations.

    `products` are the nodes that will be replaced, in the order of the graph.
    """

    def __init__(self, surgeon: Surgeon, products: Collection[ir.Node]) -> None:
        self._surgeon, self._products = surgeon, products
        self._known: dict[ir.Value, ir.Value] = {}
        """[..., width] -> [rows, width]"""
        self._shared: dict[object, ir.Value] = {}
        """What several nodes read: key (what it is, for which leading axes) -> value."""

    def of(self, node: ir.Node, x: ir.Value, width: int) -> ir.Value:
        """Returns `x` as [rows, width], computed in front of `node`."""
        if is_flat(x):
            return x
        self._axes(node, x)
        chain = self._chain(x)
        if chain is not None:
            for link in chain:
                self._known[link.outputs[0]] = self._again(node, link)
            return self._known[x]
        rows = self._surgeon.constant(f"rows of {width}", np.array([-1, width], np.int64))
        before = x.producer()
        bare = (
            before.inputs[0]
            if before is not None and before.op_type == "Reshape" and len(list(x.uses())) == self._uses(x)
            else x
        )
        self._known[x] = self._surgeon.node(node, "Reshape", bare, rows)
        return self._known[x]

    def back(self, node: ir.Node, y: ir.Value, source: ir.Value, replaced: ir.Value, width: int) -> None:
        """Puts `y` [rows, width] in the place of `replaced`, with the leading axes of `source`.

        Where all readers of `replaced` reshape it, they read `y` as it is.
        """
        if is_flat(source):
            y.shape, y.type = replaced.shape, replaced.type
            replaced.replace_all_uses_with(y)
            return
        uses = list(replaced.uses())
        if (
            uses
            and not replaced.is_graph_output()
            and all(_ignores_input_shape(use.node) and use.idx == 0 for use in uses)
        ):
            for use in uses:
                use.node.replace_input_with(0, y)
            return
        shaped = self._surgeon.node(node, "Reshape", y, self._shape(node, source, width))
        shaped.shape, shaped.type = replaced.shape, replaced.type
        replaced.replace_all_uses_with(shaped)
        self._known[shaped] = y

    def zeros(self, node: ir.Node, x: ir.Value, scale: ir.Value, zero: int) -> ir.Value:
        """Returns [rows] uint8, all of them `zero`, for as many rows as `scale` has."""
        key = ("zeros", zero, leading(x))
        if leading(x) is None or key not in self._shared:
            point = self._surgeon.constant(f"zero {zero}", np.array([zero], np.uint8))
            self._shared[key] = self._surgeon.node(
                node, "Expand", point, self._surgeon.node(node, "Shape", scale)
            )
        return self._shared[key]

    def _shape(self, node: ir.Node, source: ir.Value, width: int) -> ir.Value:
        """Returns the shape of `source` with `width` as its last axis."""
        key = ("shape", width, leading(source))
        if leading(source) is None or key not in self._shared:
            end = self._surgeon.constant(f"width {width}", np.array([width], np.int64))
            self._shared[key] = self._surgeon.node(node, "Concat", self._axes(node, source), end, axis=0)
        return self._shared[key]

    def _axes(self, node: ir.Node, source: ir.Value) -> ir.Value:
        """Returns the sizes of all axes of `source` but the last.

        They are taken from the first value that has them, because `source` itself may be removed.
        """
        key = ("axes", leading(source))
        if leading(source) is None or key not in self._shared:
            first, last = (
                self._surgeon.constant(name, np.array([at], np.int64))
                for name, at in (("first", 0), ("last axis", -1))
            )
            self._shared[key] = self._surgeon.node(
                node, "Slice", self._surgeon.node(node, "Shape", source), first, last
            )
        return self._shared[key]

    def _uses(self, x: ir.Value) -> int:
        """Counts the products that read `x`."""
        return sum(use.node in self._products and use.idx == 0 for use in x.uses())

    def _chain(self, x: ir.Value) -> list[ir.Node] | None:
        """Returns the elementwise nodes, in order, from values whose flat form is known to `x`; None unless
        only products read `x`."""
        chain: list[ir.Node] = []
        readers: set[ir.Node] = {use.node for use in x.uses() if use.node in self._products and use.idx == 0}
        axes = leading(x)
        return chain if axes is not None and self._walk(x, axes, chain, readers) else None

    def _walk(
        self, value: ir.Value, axes: tuple[str, ...], chain: list[ir.Node], readers: set[ir.Node]
    ) -> bool:
        """Adds the nodes that lead to `value` to `chain`; False where one of them is not elementwise."""
        if leading(value) != axes:
            return False  # broadcast along rows
        if value in self._known:
            return True
        node = value.producer()
        if (
            node is None
            or node.op_type not in _ELEMENTWISE
            or not all(use.node in readers for use in value.uses())
        ):
            return False
        readers.add(node)
        for operand in node.inputs:
            if operand is None:
                return False
            constant = constant_of(operand)
            if constant is None:
                if not self._walk(operand, axes, chain, readers):
                    return False
            elif constant.ndim > 1:
                return False
        if node not in chain:
            chain.append(node)
        return True

    def _again(self, before: ir.Node, link: ir.Node) -> ir.Value:
        """Adds the operation of `link` on flat values."""
        inputs = [self._known.get(value, value) if value is not None else None for value in link.inputs]
        attributes = {name: attribute.value for name, attribute in link.attributes.items()}
        return self._surgeon.node(before, link.op_type, *inputs, domain=link.domain, **attributes)


def is_flat(value: ir.Value) -> bool:
    """Whether it is [rows, width]."""
    return value.shape is not None and len(value.shape) == 2


def leading(value: ir.Value) -> tuple[str, ...] | None:
    """Returns names and sizes of all axes but the last; None where an axis is not known."""
    if value.shape is None:
        return None
    names = [str(axis) for axis in list(value.shape)[:-1]]
    return None if "None" in names else tuple(names)


def _ignores_input_shape(node: ir.Node) -> bool:
    """Whether it is a Reshape whose result does not depend on the shape of its input."""
    if node.op_type != "Reshape":
        return False
    constant = constant_of(node.inputs[1])
    if constant is not None:
        return bool((constant != 0).all())
    shape = node.inputs[1]
    joined = shape.producer() if shape is not None else None
    if joined is None or joined.op_type != "Concat":
        return False
    # A 0 copies the size of the input's axis. Computed sizes are never 0, because no batch is empty.
    constants = [constant for size in joined.inputs if (constant := constant_of(size)) is not None]
    return all(bool((constant != 0).all()) for constant in constants)
