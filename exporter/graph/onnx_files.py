"""Writes a graph without unused nodes and weights; large weights go to a file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..base.large import is_large_file

if TYPE_CHECKING:
    import onnx_ir as ir

# Initialisers up to this size stay in the graph file: scalars and shapes, which ONNX Runtime reads while it
# plans.
_SMALL_BYTES = 1024
# The size of a page, so that a runtime may map each tensor.
_ALIGNED_BYTES = 4096


def save(model: ir.Model, path: Path, *, apart: bool | None = None) -> dict[str, str]:
    """Writes the graph to `path` and its weights one by one to <stem>.data, where `model` reads them.

    Args:
        apart: whether the weights get a file of their own; None: if they are too large for the graph's.

    Returns:
        The file name of the weights -> its sha256; empty where the weights are in the graph.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    passes.RemoveUnusedNodesPass()(model)
    tensors = [
        value.const_value for value in model.graph.initializers.values() if value.const_value is not None
    ]
    if apart is None:
        apart = is_large_file(sum(tensor.nbytes for tensor in tensors))
    digests = _save_weights(model, path.with_name(f"{path.stem}.data")) if apart else {}
    _bring_in(model, [*digests])
    ir.save(model, path)
    return digests


def _bring_in(model: ir.Model, beside: Collection[str]) -> None:
    """Moves weights into the graph that it reads from other files than `beside`: those of its source."""
    import onnx_ir as ir
    from onnx_ir import external_data

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location not in beside:
            (value.const_value,) = external_data.convert_tensors_from_external([tensor])


def _save_weights(model: ir.Model, data: Path) -> dict[str, str]:
    """Writes the weights one by one to `data`, where the initialisers then point; returns name -> sha256."""
    import onnx_ir as ir

    digest, end = hashlib.sha256(), 0
    with data.open("wb") as file:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _SMALL_BYTES:
                continue
            array = np.ascontiguousarray(tensor.numpy())
            shape, array = ir.Shape(array.shape), array.reshape(-1).view(np.uint8)
            gap = bytes(-end % _ALIGNED_BYTES)
            for chunk in (gap, array.data):
                file.write(chunk)
                digest.update(chunk)
            end += len(gap)
            value.const_value = ir.ExternalTensor(
                data.name,
                end,
                len(array),
                tensor.dtype,
                shape=shape,
                name=str(value.name),
                base_dir=data.parent,
            )
            end += len(array)
    return {data.name: digest.hexdigest()}


def beside(path: Path) -> tuple[str, ...]:
    """Returns the name of the file of weights that `save` wrote beside a graph, if it wrote one."""
    data = path.with_name(f"{path.stem}.data")
    return (data.name,) if data.exists() else ()
