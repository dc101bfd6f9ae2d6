"""What passes share: constants and nodes under free names, and which nodes belong to heads or norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.artifact.manifest import PRESENT

if TYPE_CHECKING:
    import onnx_ir as ir

NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
)
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Attention"})


class Surgeon:
    """Adds constants and nodes to one graph under names that no other value has."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self.graph, self._prefix, self._number = model.graph, prefix, 0
        self._constants: dict[str, ir.Value] = {}

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Returns an initialiser; the same name returns the same value."""
        import onnx_ir as ir

        if name not in self._constants:
            # Not ascontiguousarray, which turns a scalar into a vector.
            self._constants[name] = self.attach(
                ir.tensor(np.asarray(array, order="C"), name=f"{self._prefix}/{name}")
            )
        return self._constants[name]

    def attach(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Returns a new initialiser under the tensor's own name."""
        import onnx_ir as ir

        shape = ir.Shape([int(axis) for axis in tensor.shape])  # pyright: ignore[reportArgumentType]
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self, before: ir.Node | None, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Adds a node in front of `before` (None: behind all others) and returns its only output."""
        import onnx_ir as ir

        self._number += 1
        node = ir.node(
            kind,
            list(inputs),
            attributes=attributes or None,
            domain=domain,
            name=f"{self._prefix}/{kind}_{self._number}",
        )
        node.outputs[0].name = f"{self._prefix}/{kind.lower()}_{self._number}"
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return node.outputs[0]

    def replace(self, node: ir.Node, y: ir.Value) -> None:
        """Puts `y` in the place of the only output of `node`, with its type and shape, and its name where
        it is an output of the graph; removes `node`."""
        old = node.outputs[0]
        y.shape, y.type = old.shape, old.type
        if old.is_graph_output():
            old.name, y.name = y.name, old.name
        old.replace_all_uses_with(y, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Returns the array of an initialiser, or of its Transpose; None if the value is computed.

    Exports whose weights were not folded have such transposes.
    """
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose":
        source = producer.inputs[0]
        if source is not None and source.const_value is not None:
            order = producer.attributes.get("perm")
            return np.transpose(source.const_value.numpy(), None if order is None else list(order.as_ints()))
    return None


def heads(graph: ir.Graph) -> set[ir.Node]:
    """Returns the nodes after the last norm: pooling, projections, classifiers. Keys and values of a prefix
    are an output of the layers, so what computes them is none.

    The search goes from the outputs backwards, up to the inputs of norms. Where it reaches the attention of a
    layer, there is no norm in front of the head, and the search stops at the nearest products instead. So the
    backbone never counts as a head.
    """
    nodes: set[ir.Node] = set()
    roots = {value for node in graph for value in norm_inputs(node)}
    for output in graph.outputs:
        if output.name == PRESENT:
            continue
        reached = _backwards([output], roots.__contains__)
        # The only If of a graph is that of long texts (blocks.py), which has the softmax in its branches.
        if any(node.op_type in ("Softmax", "Attention", "If") for node in reached):
            reached = _backwards([output], _is_product)
        nodes |= reached
    return nodes


def norm_inputs(node: ir.Node) -> Iterable[ir.Value]:
    """Yields what a norm normalises: the input of a LayerNormalization, or x of a spelled-out mean(x * x)."""
    if node.op_type in NORMS:
        yield from (value for value in node.inputs[:1] if value is not None)
    elif node.op_type == "ReduceMean" and node.inputs[0] is not None:
        square = node.inputs[0].producer()
        if square is not None and (
            square.op_type == "Pow"
            or (square.op_type == "Mul" and len(square.inputs) == 2 and square.inputs[0] is square.inputs[1])
        ):
            yield from (value for value in square.inputs[:1] if value is not None)


def recurrent(graph: ir.Graph) -> set[ir.Node]:
    """Returns what computes the inputs of scans, back to the products with weights it begins with. A state
    sums over a whole text, and so would an error of 16 bits."""
    scanned = [value for node in graph if node.op_type == "Scan" for value in node.inputs]
    return _backwards(
        [value for value in scanned if value is not None and not _is_product(value)], _is_product
    )


def producer_of(value: ir.Value | None, kind: str) -> ir.Node | None:
    """Returns the node that computes the value, if it is an operation of that kind."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def _is_product(value: ir.Value) -> bool:
    """Whether a product with weights computes the value."""
    producer = value.producer()
    return (
        producer is not None and producer.op_type in PRODUCTS and constant_of(producer.inputs[1]) is not None
    )


def _backwards(values: Iterable[ir.Value], stop: Callable[[ir.Value], bool]) -> set[ir.Node]:
    """Returns the nodes that compute the values, and those before them up to values that `stop` accepts."""
    reached: set[ir.Node] = set()
    queue = list(values)
    while queue:
        value = queue.pop()
        node = value.producer()
        if node is None or node in reached:
            continue
        reached.add(node)
        queue += [source for source in sources(node) if not stop(source)]
    return reached


def sources(node: ir.Node) -> Iterable[ir.Value]:
    """Yields what a node reads, and what the graphs inside it read of the graph around them."""
    import onnx_ir as ir

    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            own = {*inner.inputs, *(output for inside in inner for output in inside.outputs)}
            yield from (value for inside in inner for value in sources(inside) if value not in own)
