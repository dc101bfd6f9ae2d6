"""fp16 and bf16 graphs for strongly typed engines: products in 16 bits, all that sums or compares in fp32.

Products, their biases and the activations between them are in low precision. Norms, softmax with its mask,
residual sums, rotary angles, recurrences, pooling and heads compute in fp32. So does every elementwise node
with an fp32 input, because only a product lowers precision again. As a result no mask constant is written in
16 bits, and residual sums cannot overflow. Inputs and outputs of the graph keep their types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from .signature import PassOptions, PassResult
from .surgery import PRODUCTS, Surgeon, heads, norm_inputs, recurrent

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENTWISE = frozenset({
    "Add", "Sub", "Mul", "Neg", "Gelu", "Relu", "Tanh", "Erf", "Sigmoid", "LeakyRelu", "Elu", "Swish",
    "HardSwish",
})  # fmt: skip
_MOVES = frozenset({
    "Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "GatherND", "GatherElements", "Unsqueeze",
    "Squeeze", "Expand",
    "Identity", "Flatten", "Pad", "Tile", "Where",
})  # fmt: skip
_LARGEST_HALF = 65504.0


@runtime_checkable
class Streamed(Protocol):
    """A weight that is not in memory (streaming.Weight)."""

    def largest(self) -> float:
        """Returns the largest magnitude."""
        ...

    def lowered(self, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
        """Returns the same weight in another type, still not in memory."""
        ...


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Gives an fp32 graph its mixed form and counts the products in low precision.

    Weights that are read from files only when needed stay so.
    """
    import ml_dtypes
    import onnx_ir as ir

    assert options.low is not None, "the mixed pass needs PassOptions.low"
    kind, dtype = (
        (ir.DataType.FLOAT16, np.float16)
        if options.low == "fp16"
        else (ir.DataType.BFLOAT16, ml_dtypes.bfloat16)
    )
    lowering = _Lowering(model, options.low, kind, np.dtype(dtype))
    for node in list(model.graph):
        lowering.visit(node)
    for index, output in enumerate(model.graph.outputs):
        lowering.restore(index, output)
    return PassResult(lowering.products)


class _Lowering:
    """Visits nodes in graph order, decides the precision of each from that of its inputs, and casts where
    they differ."""

    def __init__(self, model: ir.Model, prefix: str, kind: ir.DataType, dtype: np.dtype[Any]) -> None:
        import onnx_ir as ir

        self.products = 0
        self._graph, self._float = model.graph, ir.DataType.FLOAT
        self._kind, self._dtype, self._prefix = kind, dtype, prefix
        self._surgeon = Surgeon(model, prefix)
        self._high = heads(model.graph)
        """Nodes that stay fp32 whatever their inputs are."""
        # A sum that a norm reads is the residual stream. It grows with depth, and leaves the range of fp16 in
        # large models.
        for value in (value for node in model.graph for value in norm_inputs(node)):
            if (producer := value.producer()) is not None:
                self._high.add(producer)
        self._high |= recurrent(model.graph)
        self._low: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, bool], ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        """Decides the precision of a node; casts its inputs and marks its outputs accordingly."""
        floats = [value for value in node.inputs if value is not None and self._is_float(value)]
        floats += [value for value in node.outputs if value.dtype == self._float]
        if not floats:
            return
        low = self._is_low(node)
        for index, value in enumerate(node.inputs):
            if value is None or not (value in self._low or value.dtype == self._float):
                continue
            if low and value not in self._low:
                node.replace_input_with(index, self._lowered(node, value))
            elif not low and value in self._low:
                node.replace_input_with(index, self._cast(node, value, low=False))
        if low:
            import onnx_ir as ir

            self.products += node.op_type in PRODUCTS
            for value in node.outputs:
                if value.dtype == self._float:
                    value.type = ir.TensorType(self._kind)
                    self._low.add(value)

    def restore(self, index: int, output: ir.Value) -> None:
        """Casts a graph output that is low back to float32, under its own name."""
        if output not in self._low:
            return
        import onnx_ir as ir

        node = output.producer()
        assert node is not None
        name = output.name
        output.name = f"{name}/{self._kind.name.lower()}"
        cast = ir.node("Cast", [output], attributes={"to": int(self._float)}, name=f"{name}/cast")
        restored = cast.outputs[0]
        restored.name, restored.shape, restored.type = name, output.shape, ir.TensorType(self._float)
        self._graph.append(cast)
        self._graph.outputs[index] = restored

    def _is_low(self, node: ir.Node) -> bool:
        computed = [
            value
            for value in node.inputs
            if value is not None and value.const_value is None and self._is_float(value)
        ]
        constants = [
            value
            for value in node.inputs
            if value is not None and value.const_value is not None and self._is_float(value)
        ]
        if node in self._high or not all(
            self._fits(value.const_value) for value in constants if value.const_value is not None
        ):
            return False
        if node.op_type in PRODUCTS:
            return True
        if node.op_type in _ELEMENTWISE:
            return bool(computed) and all(value in self._low for value in computed)
        if node.op_type in _MOVES:
            # Without computed inputs: an embedding table or an unfolded weight may be stored low, the two
            # values of a mask may not.
            return all(value in self._low for value in computed) and (
                bool(computed) or (bool(constants) and node.op_type != "Where")
            )
        return False

    def _is_float(self, value: ir.Value) -> bool:
        return value in self._low or value.dtype == self._float

    def _fits(self, tensor: ir.TensorProtocol) -> bool:
        """Whether all values are finite in the low type."""
        if isinstance(tensor, Streamed):
            return bool(
                tensor.largest() <= (_LARGEST_HALF if self._dtype == np.float16 else np.finfo(np.float32).max)
            )
        array = tensor.numpy()
        if self._dtype != np.float16 or array.size == 0:
            return bool(np.isfinite(array).all())
        return bool(np.abs(array).max() <= _LARGEST_HALF)

    def _lowered(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """Returns the value in low precision: a constant is converted, anything else is cast."""
        if value.const_value is None:
            return self._cast(node, value, low=True)
        if (value, True) not in self._casts:
            if isinstance(value.const_value, Streamed):
                lowered = value.const_value.lowered(self._kind, f"{self._prefix}/{value.name}")
                self._casts[value, True] = self._surgeon.attach(lowered)
            else:
                self._casts[value, True] = self._surgeon.constant(
                    str(value.name), value.const_value.numpy().astype(self._dtype)
                )
        return self._casts[value, True]

    def _cast(self, node: ir.Node, value: ir.Value, *, low: bool) -> ir.Value:
        import onnx_ir as ir

        if (value, low) not in self._casts:
            kind = self._kind if low else self._float
            # Nodes are visited in order, so this cast stands in front of all nodes that read it.
            cast = self._surgeon.node(node, "Cast", value, to=int(kind))
            cast.type, cast.shape = ir.TensorType(kind), value.shape
            self._casts[value, low] = cast
            if low:
                self._low.add(cast)
        return self._casts[value, low]
