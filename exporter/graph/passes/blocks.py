"""Attention of long texts in blocks of queries, so that no [heads, tokens, tokens] scores are in memory.

Behind an If on the text's length stands a loop over blocks of queries, and for each block over heads: the
scores of one block stay in the processor's caches, which halves the time too. Only the keys that a causal
mask or a window admits are read (attention/windows.py), and masks are computed block by block.
Short texts take the other branch of the If, where the nodes are as they were (docs/decisions/long-texts.md).

unpacking.py takes all of it out again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ....runtime.artifact.manifest import PAST
from ....runtime.engines import openvino_windows
from ..attention.body import Body, Lengths
from ..attention.regions import Attention, can_be_cut, find, square_cone
from ..attention.scopes import Scope
from ..attention.windows import EVERYTHING, axes
from .signature import PassOptions, PassResult
from .surgery import Surgeon

if TYPE_CHECKING:
    import onnx_ir as ir

PREFIX = "blocks"
"""Of the names of nodes that this pass adds."""
LONG = 512
"""Texts of more tokens than this are computed in blocks."""
QUERIES = 256
"""Queries in a block."""
NEAR_QUERIES = 128
"""Queries in a block whose window is narrow."""
NEAR_SCORES = 1 << 19
"""The most scores of all heads for which the heads of a narrow window are computed together: 2 MB."""


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Gives every attention that is understood a second form for long texts; returns their number.

    Does nothing where no text is as long.
    """
    if options.longest <= LONG:
        return PassResult(0)
    inputs = {value.name: value for value in model.graph.inputs}
    mask = inputs.get("attention_mask")
    attentions = [
        attention
        for node in model.graph
        if node.op_type == "Softmax" and (attention := find(node)) is not None and can_be_cut(attention)
    ]
    if mask is None or not attentions:
        return PassResult(0)
    cutting = _Cutting(model, mask, inputs.get(PAST), attentions[0])
    for attention in attentions:
        # A row without a key is the mean of all values, unless it is given zeros.
        spread = not options.attends_all and attention.zeroed is None
        cutting.cut(replace(attention, window=EVERYTHING) if spread else attention)
    import onnx_ir.passes.common as passes

    passes.RemoveUnusedNodesPass()(model)
    return PassResult(len(attentions))


def widest(model: ir.Model) -> int:
    """Returns the keys of the widest window that runtime/engines/openvino_windows.py cuts; 0: none."""
    windows = (openvino_windows.of_name(node.name or "") for node in model.graph if node.op_type == "If")
    return max((sum(window) for window in windows if window is not None), default=0)


class _Cutting:
    """The rewriting of one graph."""

    def __init__(self, model: ir.Model, mask: ir.Value, past: ir.Value | None, attention: Attention) -> None:
        self._surgeon, self._number = Surgeon(model, PREFIX), 0
        # Not in front of all nodes: the casts of widen.py stand there.
        first = next(node for node in model.graph if node in attention.nodes)
        add, constant = self._surgeon.node, self._surgeon.constant
        tokens = add(first, "Shape", mask, start=1, end=2)
        self._lengths = Lengths(tokens, tokens, None)
        if past is not None:
            before = add(first, "Shape", past, start=2, end=3)
            self._lengths = Lengths(tokens, add(first, "Add", tokens, before), before)
        scalar = add(first, "Squeeze", tokens)
        self._long = add(first, "Greater", scalar, constant("long", np.array(LONG, np.int64)))
        self._sides: dict[object, ir.Value] = {}

    def cut(self, attention: Attention) -> None:
        """Puts the attention behind an If, beside its form in blocks."""
        import onnx_ir as ir

        graph, result = self._surgeon.graph, attention.result
        self._number += 1
        name = f"{PREFIX}/{self._number}"
        blocks = self._blocks(attention, name)
        sides = {value: self._side(_reader(attention, value), value) for value in attention.sides}
        condition = ir.node("If", [self._long], num_outputs=1, name=name + attention.window.label)
        (chosen,) = condition.outputs
        chosen.name, chosen.type, chosen.shape = f"{name}/y", result.type, result.shape
        graph.insert_after(attention.nodes[-1], condition)
        result.replace_all_uses_with(chosen)
        for node in attention.nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and value in sides:
                    node.replace_input_with(index, sides[value])
        graph.remove(attention.nodes)
        plain = ir.Graph([], [result], nodes=attention.nodes, name=f"{name}/plain")
        condition.attributes["then_branch"] = ir.AttrGraph("then_branch", blocks)
        condition.attributes["else_branch"] = ir.AttrGraph("else_branch", plain)

    def _side(self, place: ir.Node, value: ir.Value) -> ir.Value:
        """Returns what the plain form reads in the place of a mask, which is not computed for a long text.

        Equal masks of several layers become one.
        """
        import onnx_ir as ir

        cone = square_cone(value)
        if not cone:
            return value
        key = _identity(cone[-1])
        if key not in self._sides:
            self._number += 1
            name = f"{PREFIX}/{self._number}"
            plain, none = Scope(f"{name}/plain"), Scope(f"{name}/none")
            known: dict[ir.Value, ir.Value] = {}
            for node in cone:
                copied = known[node.outputs[0]] = plain.copy(node, known)
                copied.shape = node.outputs[0].shape
            zero = ir.tensor(np.zeros([1] * len(axes(value)), value.dtype.numpy()))  # pyright: ignore[reportOptionalMemberAccess]
            condition = ir.node(
                "If",
                [self._long],
                attributes={
                    "then_branch": none.graph(none.add("Constant", value=zero), value),
                    "else_branch": plain.graph(known[value], value),
                },
                name=name,
            )
            (chosen,) = condition.outputs
            chosen.name, chosen.type, chosen.shape = f"{name}/y", value.type, value.shape
            self._surgeon.graph.insert_before(place, condition)
            self._sides[key] = chosen
        return self._sides[key]

    def _blocks(self, attention: Attention, name: str) -> ir.Graph:
        """Returns the form in blocks, whose result is [batch, heads, tokens, width] too."""
        window, heads = attention.window, attention.heads
        near = window.first is not None and window.last is not None and (
            heads * NEAR_QUERIES * (NEAR_QUERIES + window.last - window.first) <= NEAR_SCORES
        )  # fmt: skip
        queries = NEAR_QUERIES if near else QUERIES
        outer = Scope(f"{name}/blocks")
        known = {} if near else dict(attention.repeated)
        for node in (*attention.repeats, *attention.before) if near else attention.before:
            known[node.outputs[0]] = outer.copy(node, known)
        size = self._vector(queries)
        tokens = self._lengths.tokens
        last = outer.add("Sub", tokens, size)
        number = outer.add("Div", outer.add("Add", tokens, self._vector(queries - 1)), size)
        body = Body(self._surgeon.constant, attention, f"{name}/block", self._lengths, known)
        y = body.block(last, queries, together=near)
        times = outer.add("Squeeze", number)
        # [blocks, batch, heads, queries, width]
        stacked = outer.loop(times, self._true(), body.scope, y, attention.result)
        turned = outer.add("Transpose", stacked, perm=[1, 2, 0, 3, 4])
        width = axes(attention.result)[-1]
        joined = outer.add("Reshape", turned, self._surgeon.constant(
            f"joined {heads} {width}", np.array([0, heads, -1, int(width)], np.int64)
        ))  # fmt: skip
        # The last block begins where it ends with the text, and so repeats some queries of the one before.
        before = outer.add("Mul", outer.add("Sub", number, self._vector(1)), size)
        whole = outer.add("Slice", joined, self._vector(0), before, self._vector(2))
        rest = outer.add("Sub", before, tokens)
        tail = outer.add("Slice", joined, rest, self._vector(np.iinfo(np.int64).max), self._vector(2))
        return outer.graph(outer.add("Concat", whole, tail, axis=2), attention.result)

    def _vector(self, number: int) -> ir.Value:
        return self._surgeon.constant(f"vector {number}", np.array([number], np.int64))

    def _true(self) -> ir.Value:
        return self._surgeon.constant("true", np.array(True))


def _reader(attention: Attention, value: ir.Value) -> ir.Node:
    """Returns the first node of the attention that reads the value."""
    return next(node for node in attention.nodes if value in node.inputs)


def _identity(node: ir.Node) -> object:
    """What two nodes share that compute the same."""
    return (
        node.op_type,
        tuple(
            value if value is None or value.const_value is None else value.const_value.numpy().tobytes()
            for value in node.inputs
        ),
        tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())),
    )
