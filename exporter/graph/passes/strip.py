"""Removes the notes that torch.onnx leaves for debugging: they name files of the machine that exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .signature import PassOptions, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Clears metadata and doc strings of the model, its graphs, nodes and values."""
    model.metadata_props.clear()
    model.doc_string = None
    nodes = 0
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph.all_nodes():
            nodes += 1
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return PassResult(nodes)
