"""Removes torch's guard `where(isnan(softmax), 0, softmax)`, and makes the minus infinity of masks finite.

The guard serves rows that may attend to nothing. Those are padding here, which pooling leaves out. The guard
costs two passes over the attention weights (3 to 16 % of MiniLM in onnxruntime, most at 512 tokens). With it
TensorRT-RTX 1.7 fails on 16-bit attention (mha_fusion.cpp: is_softmax). In fp32 the softmax of the finite
mask is still 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .signature import PassOptions, PassResult
from .surgery import Surgeon

if TYPE_CHECKING:
    import onnx_ir as ir

# exp of it is 0 in fp32, and adding any score to it does not overflow.
MASKED = np.float32(-1e30)


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Replaces guards by their softmax, and minus infinity in masks by MASKED."""
    import onnx_ir.passes.common as passes

    surgeon, changes = Surgeon(model, "mask"), 0
    for node in list(model.graph):
        if node.op_type == "Where" and (softmax := guarded(node)) is not None:
            node.outputs[0].replace_all_uses_with(softmax)
            changes += 1
    for node in model.graph:
        if node.op_type == "Where":
            for index, value in enumerate(node.inputs):
                if value is not None and value.const_value is not None and value.const_value.size == 1:
                    array = value.const_value.numpy()
                    if array.dtype == np.float32 and np.isneginf(array).all():
                        finite = surgeon.constant(f"never {array.ndim}", np.full_like(array, MASKED))
                        node.replace_input_with(index, finite)
                        changes += 1
    passes.RemoveUnusedNodesPass()(model)
    return PassResult(changes)


def guarded(node: ir.Node) -> ir.Value | None:
    """Returns the softmax behind a `where(isnan(softmax), constant, softmax)`; None for any other Where."""
    condition, otherwise = node.inputs[0], node.inputs[2]
    test = condition.producer() if condition is not None else None
    if test is None or test.op_type != "IsNaN" or otherwise is None or test.inputs[0] is not otherwise:
        return None
    producer = otherwise.producer()
    return otherwise if producer is not None and producer.op_type == "Softmax" else None
