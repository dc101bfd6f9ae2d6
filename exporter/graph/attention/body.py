"""The attention of one block of queries: nodes inside the loop that passes/blocks.py puts into a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .regions import Attention, square_cone
from .scopes import Scope
from .windows import EVERYTHING, TOKENS, axes, is_keys

if TYPE_CHECKING:
    import onnx_ir as ir

Constant = Callable[[str, NDArray[Any]], "ir.Value"]
"""Returns an initialiser of the graph; the same name returns the same value."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of a batch, each [1]."""

    tokens: ir.Value
    keys: ir.Value
    before: ir.Value | None
    """Of the prefix; None in a graph that takes none."""


class Body:
    """One turn of the loop over blocks."""

    def __init__(
        self,
        constant: Constant,
        attention: Attention,
        name: str,
        lengths: Lengths,
        known: dict[ir.Value, ir.Value],
    ) -> None:
        self.scope, self._constant, self._attention = Scope(name), constant, attention
        self._name, self._lengths, self._known = name, lengths, known

    def block(self, last: ir.Value, queries: int, *, together: bool) -> ir.Value:
        """Returns the attention of a block of queries, [batch, heads, queries, width].

        `last`: the place of the last block. `together`: all heads at once.
        """
        add, window = self.scope.add, self._attention.window
        place = add("Reshape", self.scope.turn, self._vector(1, "one"))
        start = add("Min", add("Mul", place, self._vector(queries)), last)
        end = add("Add", start, self._vector(queries))
        bounds = {"queries": (start, end)}
        if window != EVERYTHING:
            first, behind = self._vector(0), self._lengths.keys
            if window.first is not None:
                first = add("Max", add("Add", self._own(start), self._vector(window.first)), first)
            if window.last is not None:
                behind = add("Min", add("Add", self._own(end), self._vector(window.last)), behind)
            bounds["keys"] = first, behind
        sides = {value: self._side(value, bounds) for value in self._attention.sides}
        if together:
            return self._attend(self.scope, bounds, sides)
        inner = Scope(f"{self._name}/head")
        head = inner.add("Reshape", inner.turn, self._vector(1, "one"))
        bounds["heads"] = shared = (head, inner.add("Add", head, self._vector(1, "one")))
        if self._attention.sharing > 1:
            head = inner.add("Div", head, self._vector(self._attention.sharing))
            shared = (head, inner.add("Add", head, self._vector(1, "one")))
        bounds["shared heads"] = shared
        y = self._attend(inner, bounds, sides)
        heads = self._constant("heads", np.array(self._attention.heads, np.int64))
        true = self._constant("true", np.array(True))
        stacked = self.scope.loop(heads, true, inner, y, self._attention.result)
        swapped = add("Transpose", stacked, perm=[1, 0, 2, 3, 4])
        return add("Squeeze", swapped, self._vector(2))

    def _own(self, query: ir.Value) -> ir.Value:
        """Returns the place among the keys of a query's own key."""
        before = self._lengths.before
        return query if before is None else self.scope.add("Add", query, before)

    def _attend(
        self, scope: Scope, bounds: dict[str, tuple[ir.Value, ir.Value]], sides: dict[ir.Value, ir.Value]
    ) -> ir.Value:
        """Adds the attention of what `bounds` has of queries, keys and heads."""
        attention = self._attention
        left, right, values = *attention.scores.inputs, attention.weighted.inputs[1]
        assert left is not None
        assert right is not None
        assert values is not None
        queries, keys, read = (self._known.get(value, value) for value in (left, right, values))
        known: dict[ir.Value, ir.Value] = {
            left: _cut(scope, self._constant, queries, bounds, {1: "heads", 2: "queries"}),
            right: _cut(scope, self._constant, keys, bounds, {1: "shared heads", 3: "keys"}),
            values: _cut(scope, self._constant, read, bounds, {1: "shared heads", 2: "keys"}),
        }
        for value, side in sides.items():
            sizes = axes(value)
            own = len(sizes) > 2 and sizes[-3] == str(attention.heads)
            known[value] = _cut(scope, self._constant, side, bounds, {len(sizes) - 3: "heads"} if own else {})
        last = () if attention.zeroed is None else (attention.zeroed,)
        y: ir.Value | None = None
        for node in (attention.scores, *attention.between, attention.softmax, attention.weighted, *last):
            y = known[node.outputs[0]] = scope.copy(node, known)
        assert y is not None
        return y

    def _side(self, value: ir.Value, bounds: dict[str, tuple[ir.Value, ir.Value]]) -> ir.Value:
        """Returns what a mask is for the block."""
        known: dict[ir.Value, ir.Value] = {}
        cone = square_cone(value)
        for node in cone:
            for source in node.inputs:
                if source is not None and source not in known and source.const_value is None:
                    known[source] = self._pairs(source, bounds)
            known[node.outputs[0]] = self.scope.copy(node, known)
        return known[value] if cone else self._pairs(value, bounds)

    def _pairs(self, value: ir.Value, bounds: dict[str, tuple[ir.Value, ir.Value]]) -> ir.Value:
        """Cuts a value whose last two axes are queries and keys, where it has them."""
        sizes = axes(value)
        kinds = {len(sizes) - 2: "queries"} if sizes[-2:-1] == [TOKENS] else {}
        if sizes and is_keys(sizes[-1]):
            kinds[len(sizes) - 1] = "keys"
        return _cut(self.scope, self._constant, value, bounds, kinds)

    def _vector(self, number: int, name: str = "") -> ir.Value:
        return self._constant(name or f"vector {number}", np.array([number], np.int64))


def _cut(
    scope: Scope,
    constant: Constant,
    value: ir.Value,
    bounds: dict[str, tuple[ir.Value, ir.Value]],
    kinds: dict[int, str],
) -> ir.Value:
    """Cuts axes of a value to the bounds of their kind, in one step. An axis without bounds stays whole."""
    cuts = {axis: bounds[kind] for axis, kind in kinds.items() if kind in bounds}
    if not cuts:
        return value
    places = constant(f"axes {list(cuts)}", np.array(list(cuts), np.int64))
    starts, ends = zip(*cuts.values(), strict=True)
    if len(cuts) == 1:
        return scope.add("Slice", value, starts[0], ends[0], places)
    return scope.add(
        "Slice", value, scope.add("Concat", *starts, axis=0), scope.add("Concat", *ends, axis=0), places
    )
