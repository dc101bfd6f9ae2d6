"""fp16 and bf16: products in 16 bits, and beside a bf16 graph its form that computes in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...runtime.artifact.manifest import Graph, Manifest
from ..graph.rewriting import lower, mixed_from_onnx, widen
from .trials import Chosen, described, drop

if TYPE_CHECKING:
    import onnx_ir

_BF16 = "bf16 is for engines, which `poolrt build` compiles where the GPU is; onnxruntime computes in fp32"


def chosen(precision: Literal["fp16", "bf16"], folder: Path, manifest: Manifest) -> Chosen:
    """Writes the mixed form of every graph."""
    mixed = tuple(_mixed(folder, base, precision) for base in manifest.graphs)
    # onnxruntime computes fp16 on processors (slowly), so one graph serves both; bf16 it cannot.
    if precision == "bf16":
        return Chosen((*manifest.graphs, *mixed), (_BF16,))
    for base in manifest.graphs:
        drop(folder, base)
    return Chosen(mixed, ())


def _mixed(folder: Path, base: Graph, precision: Literal["fp16", "bf16"]) -> Graph:
    path = folder / f"{Path(base.file).stem}.{precision}.onnx"
    mixed_from_onnx(folder / base.file, path, precision)
    return described(dataclasses.replace(base, packed=False), path, precision)


def lowered_in_place(
    models: Sequence[onnx_ir.Model], graphs: Sequence[Graph], precision: Literal["fp16", "bf16"]
) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
    """Gives the graphs of a large model (exporter/graph/streaming.py) their mixed form before they are
    written.

    Returns the graphs' new records and notes for the report.
    """
    for model in models:
        lower(model, precision)
    mixed = tuple(
        dataclasses.replace(graph, file=f"{Path(graph.file).stem}.{precision}.onnx", precision=precision)
        for graph in graphs
    )
    return mixed, (_BF16,) if precision == "bf16" else ()


def widened(
    folder: Path, models: Sequence[onnx_ir.Model], graphs: Sequence[Graph], *, longest: int
) -> tuple[Graph, ...]:
    """Writes the form for processors of bf16 graphs whose weights were written: it reads the same files.

    Returns their records. `models` take that form. `longest`: the most tokens of a text.
    """
    records = tuple(
        dataclasses.replace(
            graph, file=graph.file.replace(".bf16.onnx", ".onnx"), precision="fp32", weights="bf16"
        )
        for graph in graphs
    )
    for model, record in zip(models, records, strict=True):
        widen(model, folder / record.file, longest=longest)
    return records
