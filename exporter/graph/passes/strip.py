"""Removes the notes that torch.onnx leaves for debugging: they name files of the machine that exported.

What stays of them is the module that each node came from, as the beginning of its name:
`backbone.model.encoder.layer.3.attention.self/node_MatMul_93`. Profilers and viewers show it, and the report
of an export groups times by it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .signature import PassOptions, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
"""A node's modules from the outermost to the innermost, and its operation, as Python writes a list."""


def run(model: ir.Model, options: PassOptions) -> PassResult:
    """Clears metadata and doc strings of the model, its graphs, nodes and values; names nodes by modules."""
    model.metadata_props.clear()
    model.doc_string = None
    nodes = 0
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph.all_nodes():
            nodes += 1
            if module := _module_of(node.metadata_props):
                node.name = f"{module}/{node.name}"
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return PassResult(nodes)


def _module_of(notes: Mapping[str, str]) -> str:
    """The path of the innermost module that a node came from; empty: none is known."""
    try:
        scopes = ast.literal_eval(notes.get(_SCOPES, ""))
    except (SyntaxError, ValueError):
        return ""
    # The last one is the operation; torch puts words of its own in the first place where it knows no module.
    return str(scopes[-2]) if len(scopes) > 1 and scopes[0] == "" else ""
