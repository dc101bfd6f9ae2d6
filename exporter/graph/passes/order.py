"""Which passes run, in which order, for which engine: the page, and the table that the code runs.

| form | passes, in order |
|---|---|
| fp32 | strip, empty_rows, nan_guard, simplify, biases, slices, packing, blocks |
| large | strip, empty_rows, nan_guard, simplify, slices |
| mixed | unpacking, nan_guard, mixed |
| quantised | nan_guard |
| engine | unpacking |
| whole | unpacking, without_past |
| wide | widen, blocks |

- fp32: a graph that was just traced, for ONNX Runtime.
- large: a graph that was just traced, whose weights are not in memory (streaming.py); mixed follows.
- mixed: from fp32 or large; fp16 for ONNX Runtime, fp16 and bf16 for TensorRT and TensorRT-RTX.
- quantised: from fp32, before a quantisation (exporter/graph/quantisation) makes integers of it.
- engine: from any graph, while TensorRT or TensorRT-RTX compiles it; not kept.
- whole: the same for an engine that computes no text behind a prefix.
- wide: from a bf16 graph that was written, for ONNX Runtime on processors; it reads the same weights.

Why this order:

- `strip` is first, so that no other pass copies a note that names files of the exporting machine.
- `empty_rows` finds the rows by torch's NaN guard, which `nan_guard` removes.
- `biases` and `packing` compute with weights, so they do not run where weights are not in memory.
- `slices` comes after `simplify`, which removes what stands between a product and its pooling.
- `packing` is behind those that look for [batch, tokens, width], which it flattens.
- `blocks` is last, because no other pass looks into the branches of an If.
- `unpacking` comes before `mixed`, because engines need shapes that do not depend on the mask, and attention
  as their own fusions know it. It undoes `packing` and `blocks`.
- `nan_guard` runs again before `mixed` and quantisations: a graph from elsewhere may still have the guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from . import (
    biases,
    blocks,
    empty_rows,
    mixed,
    nan_guard,
    packing,
    simplify,
    slices,
    strip,
    unpacking,
    widen,
    without_past,
)
from .signature import Pass, PassOptions, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir

Form = Literal["fp32", "large", "mixed", "quantised", "engine", "whole", "wide"]

ORDER: dict[Form, tuple[Pass, ...]] = {
    "fp32": (strip, empty_rows, nan_guard, simplify, biases, slices, packing, blocks),
    "large": (strip, empty_rows, nan_guard, simplify, slices),
    "mixed": (unpacking, nan_guard, mixed),
    "quantised": (nan_guard,),
    "engine": (unpacking,),
    "whole": (unpacking, without_past),
    "wide": (widen, blocks),
}  # fmt: skip


def rewrite(model: ir.Model, form: Form, options: PassOptions | None = None) -> dict[Pass, PassResult]:
    """Runs the passes of a form on the model, in place and in order; returns what each of them did."""
    options = options or PassOptions()
    return {graph_pass: graph_pass.run(model, options) for graph_pass in ORDER[form]}
