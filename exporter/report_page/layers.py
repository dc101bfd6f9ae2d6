"""Which layer of the model each node of a graph belongs to, by the module that its name begins with.

`strip` (exporter/graph/passes) names a node by its module. Nodes that a later pass made have no module; they
belong to the layer whose results they read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REST = "masks and positions"
"""What no layer and no module of its own computes."""
_NUMBERED = re.compile(r"^(?P<stack>.*?)\.(?P<number>\d+)(?:\.|$)")
_ROOTS = ("backbone", "heads")
"""Modules of the traced model; what passes made has other names."""
_WRAPPERS = ("backbone", "model", "module", "transformer", "language_model", "text_model", "base_model")


def of_module(path: str) -> str:
    """The layer of a module's path: `encoder.layer.3`, `embeddings`, `heads`, ..."""
    parts = path.split(".")
    if parts[0] == "heads":
        return "heads"
    while parts and parts[0] in _WRAPPERS:
        parts = parts[1:]
    if not parts:
        return REST
    match = _NUMBERED.match(".".join(parts))
    return parts[0] if match is None else f"{match['stack']}.{match['number']}"


def of_nodes(file: Path) -> dict[str, str]:
    """Name of a node -> its layer, in the order of the graph, bodies of If and Loop included."""
    import onnx

    return of_graph(onnx.load(file, load_external_data=False).graph.node)


def of_graph(nodes: Iterable[Any]) -> dict[str, str]:
    """Likewise, of ONNX's NodeProtos in the order of the graph."""
    layers: dict[str, str] = {}
    _walk(nodes, layers, {}, {REST: 0}, REST)
    return layers


def _walk(
    nodes: Iterable[Any], layers: dict[str, str], written: dict[str, str], ranks: dict[str, int], outer: str
) -> None:
    """`written`: value -> the layer that computes it. `ranks`: layer -> how many came before it."""
    for node in nodes:
        module, _, _ = node.name.rpartition("/")
        if module.partition(".")[0] in _ROOTS:
            layer = of_module(module)
        else:
            layer = max(
                (written[name] for name in node.input if name in written),
                key=ranks.__getitem__,
                default=outer,
            )
        ranks.setdefault(layer, len(ranks))
        layers[node.name] = layer
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _walk(body.node, layers, written, ranks, layer)
        written.update(dict.fromkeys(node.output, layer))


def of_event(name: str, layers: Mapping[str, str]) -> str:
    """The layer of a node as ONNX Runtime calls it: a fused one has the name of its first part, and more
    behind it."""
    while name not in layers and "/" in name:
        name = name.rpartition("/")[0]
    return layers.get(name, REST)
