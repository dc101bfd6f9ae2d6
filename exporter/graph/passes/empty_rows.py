"""Gives rows that may attend to nothing zeros, as torch's attention does.

torch.onnx writes the smallest finite number where torch has minus infinity. So the softmax of such a row is a
mean of all keys, and never the NaN that torch's guard waits for. This pass multiplies the result of attention
by whether the mask admits any key, [batch, 1, rows, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .nan_guard import MASKED, guarded
from .signature import PassOptions, PassResult
from .surgery import Surgeon, constant_of, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Multiplies each guarded attention by its mask; does nothing where every row attends to a key."""
    import onnx_ir as ir

    if options.attends_all:
        return PassResult(0)
    surgeon, places = Surgeon(model, "empty"), {node: place for place, node in enumerate(model.graph)}
    admits: dict[ir.Value, ir.Value] = {}
    changes = 0
    for node in list(model.graph):
        softmax = guarded(node) if node.op_type == "Where" else None
        mask = _mask_of(softmax) if softmax is not None else None
        if mask is None:
            continue
        if mask not in admits:
            last = surgeon.constant("last axis", np.array([-1], np.int64))
            number = surgeon.node(node, "Cast", mask, to=int(ir.DataType.FLOAT))
            admits[mask] = surgeon.node(node, "ReduceMax", number, last, keepdims=1)
            number.type = admits[mask].type = ir.TensorType(ir.DataType.FLOAT)
            if mask.shape is not None:
                number.shape = mask.shape
                admits[mask].shape = ir.Shape([*list(mask.shape)[:-1], 1])
        for attend in [use.node for use in node.outputs[0].uses()]:
            attended = attend.outputs[0]
            readers = list(attended.uses())
            first = min((use.node for use in readers), key=places.__getitem__)
            zeroed = surgeon.node(first, "Mul", attended, admits[mask])
            zeroed.shape, zeroed.type = attended.shape, attended.type
            for use in readers:
                use.node.replace_input_with(use.idx, zeroed)
            changes += 1
    return PassResult(changes)


def _mask_of(weights: ir.Value) -> ir.Value | None:
    """Which keys `softmax(scores + where(mask, 0, MASKED))` admits, [batch, 1, rows, keys]; None where
    nothing is masked."""
    softmax = weights.producer()
    total = producer_of(softmax.inputs[0] if softmax is not None else None, "Add")
    for value in total.inputs if total is not None else ():
        choice = producer_of(value, "Where")
        masked = constant_of(choice.inputs[2]) if choice is not None else None
        if choice is not None and masked is not None and masked.size == 1 and masked.item() <= MASKED:
            return choice.inputs[0]
    return None
