"""Transposes the keys of attention in one step, where torch.onnx takes several, and counts the last axis of a
Split from the end.

A short text costs more in nodes than in arithmetic: the launch of a node takes microseconds, and attention
has a dozen nodes that only change shapes. packing.py drops padding in front of what works along the last
axis, and changes the number of axes. No number changes, and every engine reads the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .signature import PassOptions, PassResult
from .surgery import Surgeon, constant_of, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

_RANK = 4  # [batch, heads, tokens, width]


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Replaces each reshape, transpose, reshape of keys by one transpose, and the last axis of a Split by
    -1."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    surgeon, changes = Surgeon(model, "tidy"), 0
    for node in list(model.graph):
        if node.op_type == "Split" and _splits_width(node):
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
            changes += 1
        if (keys := _transposed(node)) is not None:
            y = surgeon.node(node, "Transpose", keys, perm=[0, 1, 3, 2])
            if keys.shape is not None:
                y.shape, y.type = type(keys.shape)([keys.shape[axis] for axis in (0, 1, 3, 2)]), keys.type
            node.outputs[0].replace_all_uses_with(y)
            changes += 1
    passes.RemoveUnusedNodesPass()(model)
    return PassResult(changes)


def _splits_width(node: ir.Node) -> bool:
    """Whether a Split along the last axis counts it from the front."""
    axis, x = node.attributes.get("axis"), node.inputs[0]
    return axis is not None and x is not None and x.shape is not None and axis.as_int() == len(x.shape) - 1


def _transposed(node: ir.Node) -> ir.Value | None:
    """Returns x of `reshape(transpose(reshape(x, [-1, s, d]), (0, 2, 1)), [b, h, d, s])`, which swaps the
    last two axes of x; None for any other node."""
    if node.op_type != "Reshape" or (turned := producer_of(node.inputs[0], "Transpose")) is None:
        return None
    order = turned.attributes.get("perm")
    flat = producer_of(turned.inputs[0], "Reshape")
    if order is None or list(order.as_ints()) != [0, 2, 1] or flat is None:
        return None
    x = flat.inputs[0]
    if x is None or x.shape is None or len(x.shape) != _RANK:
        return None
    before, after = _sizes(flat.inputs[1], x), _sizes(node.inputs[1], x)
    return x if before == [None, 2, 3] and after == [0, 1, 3, 2] else None


def _sizes(shape: ir.Value | None, x: ir.Value) -> Sequence[int | None] | None:
    """Returns the axes of `x` whose sizes a concatenated shape holds, with None for a -1; None where the
    shape is computed in another way."""
    joined = producer_of(shape, "Concat")
    if joined is None:
        return None
    axes: list[int | None] = []
    for part in joined.inputs:
        constant = constant_of(part)
        if constant is not None and constant.tolist() == [-1]:
            axes.append(None)
            continue
        cut = producer_of(part, "Slice")
        whole = producer_of(cut.inputs[0], "Shape") if cut is not None else None
        if cut is None or whole is None or len(cut.inputs) > 3:
            return None
        if whole.inputs[0] is not x or _is_partial(whole):
            return None
        first, last = constant_of(cut.inputs[1]), constant_of(cut.inputs[2])
        if first is None or last is None:
            return None
        axes += np.arange(_RANK)[int(first.item()) : int(last.item())].tolist()
    return axes


def _is_partial(shape: ir.Node) -> bool:
    """Whether a Shape node returns only some of the axes."""
    start, end = shape.attributes.get("start"), shape.attributes.get("end")
    return end is not None or (start is not None and start.as_int() != 0)
