"""Takes the biases of keys and values out of attention, which cost a pass over every token for nothing.

The bias of keys adds the same number to all scores of a query, and the softmax cancels it. The bias of values
passes through attention unchanged, because the weights of a query sum to 1. So it moves into the bias after
the output product: b_o + b_v W_o. Both hold only where nothing stands between bias and scores but scaling and
the mask (no rotary positions, no cap), and where nothing else reads the values between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .signature import PassOptions, PassResult
from .surgery import Surgeon, constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

_SPLIT = (0, 1, 2, 3)  # [batch, tokens, heads, width of a head]
_KEYS = (0, 2, 3, 1)
_VALUES = (0, 2, 1, 3)


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Removes the biases and counts them. Outputs change by rounding alone."""
    import onnx_ir.passes.common as passes

    surgeon = Surgeon(model, "biases")
    removed = 0
    for node in list(model.graph):
        if (
            node.op_type == "Softmax"
            and (axis := node.attributes.get("axis")) is not None
            and axis.as_int() in (-1, 3)
        ):
            removed += _keys(node) + _values(surgeon, node)
    if removed:
        passes.RemoveUnusedNodesPass()(model)
    return PassResult(removed)


def _keys(softmax: ir.Node) -> bool:
    """Removes the bias of the keys whose scores `softmax` reads; False where the graph does not allow it."""
    product = _scores(softmax.inputs[0])
    biased = _projected(product.inputs[1], _KEYS) if product is not None else None
    if biased is None:
        return False
    _drop(*biased)
    return True


def _values(surgeon: Surgeon, softmax: ir.Node) -> bool:
    """Moves the bias of the values that `softmax` weighs; False where the graph does not allow it."""
    product = _reader(softmax, "MatMul")
    if product is None or product.inputs[0] is not softmax.outputs[0]:
        return False
    biased = _projected(product.inputs[1], _VALUES)
    turned = _reader(product, "Transpose")
    joined = _reader(turned, "Reshape") if turned is not None and _order(turned) == _VALUES else None
    output = _reader(joined, "MatMul")
    added = _reader(output, "Add")
    if (
        biased is None
        or joined is None
        or output is None
        or added is None
        or output.inputs[0] is not joined.outputs[0]
    ):
        return False
    weights, (at, bias) = constant_of(output.inputs[1]), _constant_input(added)
    add, bare = biased
    own = _constant_input(add)[1]
    if (
        weights is None
        or weights.ndim != 2
        or bias is None
        or bias.shape != weights.shape[1:]
        or own is None
        or len(own) != len(weights)
    ):
        return False
    total = bias.astype(np.float64) + own.astype(np.float64) @ weights.astype(np.float64)
    added.replace_input_with(
        at, surgeon.constant(output.name or output.outputs[0].name or "", total.astype(np.float32))
    )
    _drop(add, bare)
    return True


def _scores(value: ir.Value | None) -> ir.Node | None:
    """Returns the product of queries and keys behind scaled, masked scores that only the softmax reads."""
    node = _sole_producer(value)
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node if all(constant_of(value) is None for value in node.inputs) else None
    if node.op_type in ("Mul", "Div"):
        return _scores(node.inputs[0]) if _is_number(node.inputs[1]) else None
    if node.op_type == "Add":
        products = [product for value in node.inputs if (product := _scores(value)) is not None]
        return products[0] if len(products) == 1 else None
    return None


def _projected(value: ir.Value | None, order: tuple[int, ...]) -> tuple[ir.Node, ir.Value] | None:
    """Returns the Add of a projection's bias, and what it is added to.

    None unless `value` is the projection, split into heads, with its axes in `order`, perhaps scaled.
    """
    axes: tuple[int, ...] = _SPLIT
    while (node := _sole_producer(value)) is not None:
        if (
            node.op_type == "Transpose"
            and (turned := _order(node)) is not None
            and len(turned) == len(_SPLIT)
        ):
            axes = tuple(turned[axis] for axis in axes)
        elif node.op_type == "Reshape":
            return _biased(node.inputs[0]) if axes == order and _splits(node) else None
        elif node.op_type != "Mul" or not _is_number(node.inputs[1]):
            return None
        value = node.inputs[0]
    return None


def _biased(value: ir.Value | None) -> tuple[ir.Node, ir.Value] | None:
    """Returns the Add of a constant vector to a product, and the product; None for any other value."""
    add = _sole_producer(value)
    if add is None or add.op_type != "Add":
        return None
    at, bias = _constant_input(add)
    bare = add.inputs[1 - at]
    product = bare.producer() if bare is not None else None
    if bias is None or bias.ndim != 1 or bare is None or product is None or product.op_type != "MatMul":
        return None
    return add, bare


def _splits(reshape: ir.Node) -> bool:
    """Whether it reshapes [batch, tokens, heads * width] to [batch, tokens, heads, width]."""
    whole, parts = reshape.inputs[0], reshape.outputs[0].shape
    if (
        whole is None
        or whole.shape is None
        or parts is None
        or len(parts) != len(_SPLIT)
        or len(whole.shape) != len(_SPLIT) - 1
    ):
        return False
    heads, width = parts[2], parts[3]
    same = [str(axis) for axis in list(whole.shape)[:2]] == [str(axis) for axis in list(parts)[:2]]
    return same and isinstance(heads, int) and isinstance(width, int) and whole.shape[2] == heads * width


def _drop(add: ir.Node, bare: ir.Value) -> None:
    """Lets `bare` take the place of the sum."""
    bare.shape, bare.type = add.outputs[0].shape, add.outputs[0].type
    add.outputs[0].replace_all_uses_with(bare)


def _constant_input(node: ir.Node) -> tuple[int, NDArray[np.float32] | None]:
    """Returns the place and the array of a node's only constant input; (0, None) where there is no such
    input."""
    constants = [
        (index, constant)
        for index, value in enumerate(node.inputs)
        if (constant := constant_of(value)) is not None
    ]
    return constants[0] if len(constants) == 1 else (0, None)


def _is_number(value: ir.Value | None) -> bool:
    constant = constant_of(value)
    return constant is not None and constant.size == 1


def _order(node: ir.Node) -> tuple[int, ...] | None:
    order = node.attributes.get("perm")
    return tuple(order.as_ints()) if order is not None else None


def _sole_producer(value: ir.Value | None) -> ir.Node | None:
    """Returns the node that computes the value, if the value is read in one place only."""
    return (
        value.producer()
        if value is not None and len(list(value.uses())) == 1 and not value.is_graph_output()
        else None
    )


def _reader(node: ir.Node | None, kind: str) -> ir.Node | None:
    """Returns the only node that reads what `node` computes, if it is an operation of that kind."""
    if node is None or _sole_producer(node.outputs[0]) is None:
        return None
    (use,) = node.outputs[0].uses()
    return use.node if use.node.op_type == kind else None
