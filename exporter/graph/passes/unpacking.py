"""Takes out what packing.py put in, for engines whose shapes are fixed before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .packing import PREFIX, ROWS
from .signature import PassOptions, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Restores the padded form exactly; a graph that was not packed stays as it is."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    outputs = {id(value): index for index, value in enumerate(model.graph.outputs)}
    changes = 0
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


def _is_added(node: ir.Node) -> bool:
    """Whether packing added the node."""
    return (node.name or "").startswith(f"{PREFIX}/")
