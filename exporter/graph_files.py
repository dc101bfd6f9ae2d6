"""Saves a rewritten graph: unused nodes and weights dropped, weights beside the graph when they would not fit into one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

# protobuf refuses 2 GiB; below this one file is easier to move about.
_ONE_FILE_BYTES = 1 << 30
LARGE_BYTES = 4_000_000_000
"""Of float32 parameters, from which on a model is streamed: a smaller one, its traced copy and ONNX Runtime fit into 16 GB."""
SETTING = "POOLRT_STREAM_BYTES"


def is_large(parameters: int) -> bool:
    """Whether so many parameters are streamed, never held. POOLRT_STREAM_BYTES sets another limit; 0: always."""
    return 4 * parameters >= int(os.environ.get(SETTING) or LARGE_BYTES)


def save(model: ir.Model, path: Path) -> tuple[str, ...]:
    """Writes the graph and answers the names of its external-data files, beside it."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    passes.RemoveUnusedNodesPass()(model)
    # Shapes recorded for inner values are the exporter's guesses about a graph that was since rewritten.
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < _ONE_FILE_BYTES:
        ir.save(model, path)
        return ()
    data = f"{path.stem}.data"
    ir.save(model, path, external_data=data)
    return (data,)


def beside(path: Path) -> tuple[str, ...]:
    """The external-data files of a graph that `save` wrote."""
    data = path.with_name(f"{path.stem}.data")
    return (data.name,) if data.exists() else ()
