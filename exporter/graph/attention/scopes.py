"""Nodes of a graph inside a graph: the branches of an If, the body of a Loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir


class Scope:
    """Collects nodes that will be a graph inside another. Values of the graphs around it are read by name."""

    def __init__(self, prefix: str) -> None:
        import onnx_ir as ir

        self.nodes: list[ir.Node] = []
        self._prefix = prefix
        self.turn = ir.Value(name=f"{prefix}/turn", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        """The number of a loop's turn, from 0, where this scope is its body."""

    def add(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Adds a node and returns its only output."""
        import onnx_ir as ir

        name = f"{self._prefix}/{len(self.nodes)}/{kind}"
        node = ir.node(kind, list(inputs), attributes=attributes or None, name=name)
        node.outputs[0].name = f"{name}/y"
        self.nodes.append(node)
        return node.outputs[0]

    def copy(self, node: ir.Node, known: Mapping[ir.Value, ir.Value]) -> ir.Value:
        """Adds the same operation on the values that `known` has for its inputs; others stay as they are."""
        import onnx_ir as ir

        name = f"{self._prefix}/{len(self.nodes)}/{node.op_type}"
        inputs = [known.get(value, value) if value is not None else None for value in node.inputs]
        copied = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), name=name)
        copied.outputs[0].name, copied.outputs[0].type = f"{name}/y", node.outputs[0].type
        self.nodes.append(copied)
        return copied.outputs[0]

    def graph(self, output: ir.Value, like: ir.Value) -> ir.Graph:
        """Returns the graph without inputs and with one output, which has the type of `like`."""
        import onnx_ir as ir

        output.type = like.type
        return ir.Graph([], [output], nodes=self.nodes, name=self._prefix)

    def loop(
        self, times: ir.Value, going: ir.Value, body: Scope, output: ir.Value, like: ir.Value
    ) -> ir.Value:
        """Adds a loop and returns its results, stacked along a new first axis.

        `body` was filled with nodes that read `body.turn`; `output` is what each turn yields.
        """
        import onnx_ir as ir

        again = ir.Value(
            name=f"{body._prefix}/going", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
        )
        stays = body.add("Identity", again)
        stays.type, stays.shape = again.type, again.shape
        output.type = like.type
        graph = ir.Graph([body.turn, again], [stays, output], nodes=body.nodes, name=body._prefix)
        return self.add("Loop", times, going, body=graph)
