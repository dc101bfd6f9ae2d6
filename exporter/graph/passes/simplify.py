"""Transposes the keys of attention in one step, where torch.onnx takes several, counts the last axis of a
Split from the end, and takes conditions out of masks that always hold.

A short text costs more in nodes than in arithmetic: the launch of a node takes microseconds, and attention
has a dozen nodes that only change shapes. packing.py drops padding in front of what works along the last
axis, and changes the number of axes. A mask of padding that is combined with "a position is at least 0" has
[tokens, tokens] elements in place of [1, tokens]. No number changes, and every engine reads the result.
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
    """Replaces each reshape, transpose, reshape of keys by one transpose, the last axis of a Split by -1, and
    each And with what always holds by its other side."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    surgeon, changes = Surgeon(model, "tidy"), 0
    for node in list(model.graph):
        if node.op_type == "Split" and _splits_width(node):
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
            changes += 1
        if node.op_type == "And" and (rest := _rest(node)) is not None:
            node.outputs[0].replace_all_uses_with(rest)
            _reshape_masks(rest)
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


def _rest(node: ir.Node) -> ir.Value | None:
    """Returns what an And equals, one side of which always holds. None for others, and where that has another
    shape and is read by more than masks of scores."""
    for side, rest in (node.inputs[:2], node.inputs[1::-1]):
        if rest is None or rest.shape is None or not _always_holds(side):
            continue
        if rest.shape == node.outputs[0].shape or _is_mask(node.outputs[0]):
            return rest
    return None


def _always_holds(value: ir.Value | None) -> bool:
    """Whether a condition is true everywhere: True, or positions that are counted from 0 and at least 0."""
    if value is None:
        return False
    if value.const_value is not None:
        return bool(value.const_value.numpy().all())
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "And":
        return all(map(_always_holds, node.inputs))
    least = constant_of(node.inputs[1]) if node.op_type == "GreaterOrEqual" else None
    position = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    while position is not None and position.op_type == "Unsqueeze" and position.inputs[0] is not None:
        position = position.inputs[0].producer()
    if least is None or least.max() > 0 or position is None or position.op_type != "Range":
        return False
    start, step = constant_of(position.inputs[0]), constant_of(position.inputs[2])
    return start is not None and step is not None and start.min() >= 0 and step.min() > 0


def _is_mask(value: ir.Value) -> bool:
    """Whether all that reads a condition, behind other conditions or not, adds two numbers to a product by
    it."""
    for use in value.uses():
        node, y = use.node, use.node.outputs[0]
        if node.op_type == "Where" and use.idx == 0:
            if not _chooses_numbers(node) or not all(_adds_to_product(reader.node) for reader in y.uses()):
                return False
        elif node.op_type != "And" or not _is_mask(y):
            return False
        if y.is_graph_output():
            return False
    return not value.is_graph_output()


def _chooses_numbers(where: ir.Node) -> bool:
    numbers = [constant_of(branch) for branch in where.inputs[1:]]
    return all(number is not None and number.size == 1 for number in numbers)


def _adds_to_product(node: ir.Node) -> bool:
    return node.op_type == "Add" and any(producer_of(side, "MatMul") for side in node.inputs)


def _reshape_masks(condition: ir.Value) -> None:
    """States anew the shapes of the masks that are computed from a condition."""
    import onnx_ir as ir

    for use in condition.uses():
        node, y = use.node, use.node.outputs[0]
        if node.op_type == "Where" and use.idx == 0 and _chooses_numbers(node):
            y.shape = condition.shape
        elif node.op_type == "And" and y.shape is not None:
            shapes = [list(side.shape) for side in node.inputs if side is not None and side.shape is not None]
            if len(shapes) == len(node.inputs) and all(len(shape) == len(y.shape) for shape in shapes):
                y.shape = ir.Shape([
                    next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True)
                ])  # fmt: skip
                _reshape_masks(y)


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
