"""Takes out what packing.py and blocks.py put in, for engines whose shapes are fixed before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import blocks
from .packing import PREFIX, ROWS
from .signature import PassOptions, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Restores the padded form exactly; a graph that was not packed stays as it is."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    outputs = {id(value): index for index, value in enumerate(model.graph.outputs)}
    changes = _join(model.graph)
    for node in list(model.graph):
        if node.op_type != "Gather" or not _is_added(node):
            continue
        source, gathered = node.inputs[0], node.outputs[0]
        assert source is not None
        before = source.producer()
        if before is not None and before.op_type == "Reshape" and _is_added(before):
            source = before.inputs[0]
            assert source is not None
        gathered.replace_all_uses_with(source)
        changes += 1
        if (index := outputs.get(id(gathered))) is not None:
            name, gathered.name = gathered.name, f"{PREFIX}/gone"
            source.name, source.shape, source.type = name, gathered.shape, gathered.type
            model.graph.outputs[index] = source
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and len(value.shape) > 0 and str(value.shape[0]) == ROWS:
                value.shape = ir.Shape(["batch", "tokens", *list(value.shape)[1:]])
    passes.RemoveUnusedNodesPass()(model)
    return PassResult(changes)


def _join(graph: ir.Graph) -> int:
    """Puts the nodes of short texts in the place of each choice that blocks.py added; counts those."""
    chosen = [
        node for node in graph if node.op_type == "If" and (node.name or "").startswith(f"{blocks.PREFIX}/")
    ]
    for node in chosen:
        plain = node.attributes["else_branch"].as_graph()
        (result,) = plain.outputs
        nodes = list(plain)
        plain.outputs.clear()
        plain.remove(nodes)
        graph.insert_before(node, nodes)
        result.shape = node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(result)
        _clear(node.attributes["then_branch"].as_graph())
        graph.remove(node, safe=True)
    return len(chosen)


def _clear(graph: ir.Graph) -> None:
    """Removes all nodes, so that nothing counts as read by them."""
    import onnx_ir as ir

    graph.outputs.clear()
    for node in reversed(list(graph)):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _clear(attribute.as_graph())
        graph.remove(node, safe=True)


def _is_added(node: ir.Node) -> bool:
    """Whether packing added the node."""
    return (node.name or "").startswith(f"{PREFIX}/")
