"""Takes the prefix out of a graph that computes tokens behind one (exporter/graph/prefix.py), for engines
whose profiles have no such axis.

What is left computes what the graph computes behind a prefix of no tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....runtime.artifact.manifest import KEPT, PAST, PRESENT
from .signature import PassOptions, PassResult
from .surgery import Surgeon

if TYPE_CHECKING:
    import onnx_ir as ir

_ON_THE_WAY = frozenset({"Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Identity"})
"""Nodes between the input and the Concat that puts it in front of a layer's own keys or values."""


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Removes the inputs `past` and `kept`, the output `present` and all that serves them; a graph without
    them stays as it is."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    if PAST not in inputs:
        return PassResult(0)
    past = inputs[PAST]
    graph.outputs[:] = [value for value in graph.outputs if value.name != PRESENT]
    surgeon, nothing = Surgeon(model, "whole"), np.array([0], np.int64)
    prefix, changes = {past}, 0
    for node in list(graph):
        if node.op_type == "Shape" and node.inputs[0] in prefix:
            node.outputs[0].replace_all_uses_with(surgeon.constant("no tokens", _length(node, nothing)))
        elif node.op_type in _ON_THE_WAY and node.inputs[0] in prefix:
            prefix.add(node.outputs[0])
        elif node.op_type == "Concat" and node.inputs[0] in prefix:
            _, own = node.inputs
            assert own is not None, f"{node.name} joins a prefix with nothing"
            node.outputs[0].replace_all_uses_with(own)
            changes += 1
    passes.RemoveUnusedNodesPass()(model)
    read = [value.name for value in (past, inputs[KEPT]) if list(value.uses())]
    assert not read, f"{', '.join(map(str, read))} is read elsewhere too"
    graph.inputs[:] = [value for value in graph.inputs if value.name not in (PAST, KEPT)]
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape(
                    ["tokens" if PAST in str(axis) else axis for axis in value.shape]  # keys are tokens
                )
    return PassResult(changes)


def _length(node: ir.Node, nothing: np.ndarray) -> np.ndarray:
    """What a Shape node reads of the prefix: only its length, which is no tokens."""
    start, end = node.attributes.get("start"), node.attributes.get("end")
    whole = node.inputs[0]
    shape = [] if whole is None or whole.shape is None else list(whole.shape)
    read = shape[0 if start is None else start.as_int() : None if end is None else end.as_int()]
    assert [str(axis) for axis in read] == [PAST], f"{node.name} reads more than a length"
    return nothing
