"""Shortens what torch.onnx spells out at length, in plain ONNX that every engine reads.

A short text costs more in nodes than in numbers: a launch of one is microseconds, and attention comes with a
dozen that only move shapes about. Nothing here changes a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .surgery import Surgeon, constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

_RANK = 4  # [batch, heads, tokens, width]


def tidy(model: ir.Model) -> None:
    """The keys of attention are transposed in one step."""
    import onnx_ir.passes.common as passes

    surgeon = Surgeon(model, "tidy")
    for node in list(model.graph):
        if (keys := _transposed(node)) is not None:
            y = surgeon.node(node, "Transpose", keys, perm=[0, 1, 3, 2])
            if keys.shape is not None:
                y.shape, y.type = type(keys.shape)([keys.shape[axis] for axis in (0, 1, 3, 2)]), keys.type
            node.outputs[0].replace_all_uses_with(y)
    passes.RemoveUnusedNodesPass()(model)


def _transposed(node: ir.Node) -> ir.Value | None:
    """x of `reshape(transpose(reshape(x, [-1, s, d]), (0, 2, 1)), [b, h, d, s])`: its last two
    axes change places, no more."""
    if node.op_type != "Reshape" or (turned := _producer(node.inputs[0], "Transpose")) is None:
        return None
    order = turned.attributes.get("perm")
    flat = _producer(turned.inputs[0], "Reshape")
    if order is None or list(order.as_ints()) != [0, 2, 1] or flat is None:
        return None
    x = flat.inputs[0]
    if x is None or x.shape is None or len(x.shape) != _RANK:
        return None
    before, after = _sizes(flat.inputs[1], x), _sizes(node.inputs[1], x)
    return x if before == [None, 2, 3] and after == [0, 1, 3, 2] else None


def _sizes(shape: ir.Value | None, x: ir.Value) -> Sequence[int | None] | None:
    """Which axes of `x` a concatenated shape names, None among them for the -1 that means the rest; None
    if it is something else."""
    joined = _producer(shape, "Concat")
    if joined is None:
        return None
    axes: list[int | None] = []
    for part in joined.inputs:
        constant = constant_of(part)
        if constant is not None and constant.tolist() == [-1]:
            axes.append(None)
            continue
        cut = _producer(part, "Slice")
        whole = _producer(cut.inputs[0], "Shape") if cut is not None else None
        if cut is None or whole is None or whole.inputs[0] is not x or _part(whole) or len(cut.inputs) > 3:
            return None
        first, last = constant_of(cut.inputs[1]), constant_of(cut.inputs[2])
        if first is None or last is None:
            return None
        axes += np.arange(_RANK)[int(first.item()) : int(last.item())].tolist()
    return axes


def _part(shape: ir.Node) -> bool:
    """Whether a Shape node answers only some of the axes."""
    start, end = shape.attributes.get("start"), shape.attributes.get("end")
    return end is not None or (start is not None and start.as_int() != 0)


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None
