"""Which numbers the graph computes in, decided by what was measured.

`fp32` is the graph as exported. `int8` is for processors, `fp16` and `bf16` are for GPUs. Beside a bf16 graph
stands a form of it that computes in float32, as ONNX Runtime has no bf16 on processors. `auto` takes int8
if that keeps to its drift budget and is faster on this machine, else fp32. A note says why.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..runtime.artifact.manifest import Graph, Manifest, Precision
from ..runtime.batching.plan import BatchLimits
from ..runtime.engines import ort
from ..runtime.engines.feed import Feed
from ..runtime.errors import InputError
from ..runtime.inputs.items import Item
from ..runtime.loader import prepared_for
from . import engine
from .base.report import Say
from .graph import onnx_files
from .graph.passes.signature import Quantised
from .graph.rewriting import int8_from_onnx, lower, mixed_from_onnx, widen
from .proof import evidence, texts
from .proof.reference import Reference
from .proof.verify import Runner

if TYPE_CHECKING:
    import onnx_ir

Choice = Literal["fp32", "fp16", "bf16", "int8", "auto"]
CHOICES: tuple[Choice, ...] = ("fp32", "fp16", "bf16", "int8", "auto")
# Shares of the products, the most sensitive first, that stay fp32; the next is tried where the one before
# drifts too far.
_KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
# Least speed-up over fp32 for which auto takes int8 and its drift.
_WORTH_IT = 1.2
_PROBES = 24
# Some hundred short texts beside one of 2048 tokens, padded to one batch, would need a hundred gigabytes.
_BATCHES = BatchLimits(max_tokens=1 << 13, launch_tokens=1 << 9)
_BF16 = "bf16 is for engines, which `poolrt build` compiles where the GPU is; onnxruntime computes in fp32"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The graphs that the artifact keeps, and notes for the report."""

    graphs: tuple[Graph, ...]
    notes: tuple[str, ...]


def check(precision: str, targets: Sequence[engine.Target]) -> Choice:
    """Returns `precision`. Raises InputError if it does not exist, or the targets cannot compile it."""
    if precision not in CHOICES:
        raise InputError(f"precision {precision!r}: expected one of {', '.join(CHOICES)}", field="precision")
    if precision in ("int8", "auto") and targets:
        raise InputError(
            f"precision {precision} is for processors, target {targets[0]} compiles fp32, fp16 or bf16; "
            "export twice, with two --name",
            field="precision",
        )
    return precision  # pyright: ignore[reportReturnType]


def chosen(
    choice: Choice,
    folder: Path,
    manifest: Manifest,
    reference: Reference,
    items: Sequence[Item],
    say: Say,
) -> Chosen:
    """Writes the graph that `choice` means beside the fp32 one, which `manifest` names, and removes from
    `folder` the one that is not needed."""
    if choice == "fp32":
        return Chosen(manifest.graphs, ())
    if choice in ("fp16", "bf16"):
        mixed = tuple(_mixed(folder, base, choice) for base in manifest.graphs)
        # onnxruntime computes fp16 on processors (slowly), so one graph serves both; bf16 it cannot.
        if choice == "bf16":
            return Chosen((*manifest.graphs, *mixed), (_BF16,))
        for base in manifest.graphs:
            _drop(folder, base)
        return Chosen(mixed, ())
    return _int8(choice, folder, manifest, reference, items, say)


def _mixed(folder: Path, base: Graph, precision: Literal["fp16", "bf16"]) -> Graph:
    """Writes the mixed form of a graph."""
    path = folder / f"{Path(base.file).stem}.{precision}.onnx"
    mixed_from_onnx(folder / base.file, path, precision)
    return _described(dataclasses.replace(base.whole(), packed=False), path, precision)


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


def widened(folder: Path, models: Sequence[onnx_ir.Model], graphs: Sequence[Graph]) -> tuple[Graph, ...]:
    """Writes the form for processors of bf16 graphs whose weights were written: it reads the same files.

    Returns their records. `models` take that form.
    """
    records = tuple(
        dataclasses.replace(
            graph, file=graph.file.replace(".bf16.onnx", ".onnx"), precision="fp32", weights="bf16"
        )
        for graph in graphs
    )
    for model, record in zip(models, records, strict=True):
        widen(model, folder / record.file)
    return records


def _int8(
    choice: Choice,
    folder: Path,
    manifest: Manifest,
    reference: Reference,
    items: Sequence[Item],
    say: Say,
) -> Chosen:
    base = manifest.graph("text", "fp32")
    int8, quantised, within = _within_budget(folder, manifest, reference, items, say)
    # auto does not time an int8 graph that drifts too far to be taken.
    speed = _speedup(folder, manifest, base, int8, items) if within or choice == "int8" else 0.0
    kept = f", {len(quantised.kept)} products kept in fp32" if quantised.kept else ""
    note = (
        f"int8: {len(quantised.products)} products and {len(quantised.tables)} tables quantised{kept}; "
        f"{speed:.2f} times the speed of fp32 here"
    )
    if choice == "int8" or (within and speed >= _WORTH_IT):
        _drop(folder, base)
        notes = [note if choice == "int8" else f"auto chose int8. {note}"]
        others, more = _int8_pictures(folder, manifest, int8, reference, items)
        return Chosen((int8, *others), (*notes, *more))
    _drop(folder, int8)
    reason = (
        f"int8 is {speed:.2f} times as fast here, less than {_WORTH_IT}"
        if within
        else "int8 drifts beyond its budget"
    )
    return Chosen(manifest.graphs, (f"auto chose fp32: {reason}",))


def _int8_pictures(
    folder: Path, manifest: Manifest, text: Graph, reference: Reference, items: Sequence[Item]
) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
    """The vision graph beside an int8 text graph: int8 too where prompts with pictures keep to the budget,
    else fp32; and a note. Nothing of a model that reads text only."""
    if manifest.images is None:
        return (), ()
    base = manifest.graph("vision", "fp32")
    int8, quantised = _quantised(folder, base, keep=())
    both = dataclasses.replace(manifest, graphs=(text, int8))
    failed = _drift(folder, both, text, reference, [item for item in items if item.vision])
    _drop(folder, int8 if failed else base)
    if failed:
        return (base,), (f"the vision graph stays fp32: {failed[0]}",)
    return (int8,), (f"int8 of the vision graph: {len(quantised.products)} products quantised",)


def _within_budget(
    folder: Path, manifest: Manifest, reference: Reference, items: Sequence[Item], say: Say
) -> tuple[Graph, Quantised, bool]:
    """The fastest int8 graph that keeps to the budget; else the most careful one tried, and False."""
    base = manifest.graph("text", "fp32")
    order: list[str] = []
    int8, quantised = base, Quantised((), (), ())
    for share in _KEPT_SHARES:
        if share and not order:
            order = _by_sensitivity(folder, manifest, quantised, items, say)
        int8, quantised = _quantised(folder, base, keep=order[: round(share * len(order))])
        failed = _drift(folder, manifest, int8, reference, items)
        if not failed:
            return int8, quantised, True
        say(f"      int8 with {len(quantised.kept)} products in fp32 drifts too far: {failed[0]}")
    return int8, quantised, False


def _drift(
    folder: Path, manifest: Manifest, graph: Graph, reference: Reference, items: Sequence[Item]
) -> list[str]:
    """The comparisons of `graph` with PyTorch that are beyond the tolerance of int8, one line each."""
    others = tuple(other for other in manifest.graphs if other.role != graph.role)
    runner = Runner(folder, dataclasses.replace(manifest, graphs=(graph, *others)), graph, _BATCHES)
    try:
        comparisons = [
            evidence.compared(
                runner.name,
                "int8",
                task,
                f"{len(items)} texts",
                runner.answers(task, items),
                reference.answers(task, items),
            )
            for task in manifest.tasks
        ]
    finally:
        runner.close()
    return [evidence.summary(comparison) for comparison in comparisons if not evidence.holds(comparison)]


def _by_sensitivity(
    folder: Path, manifest: Manifest, quantised: Quantised, items: Sequence[Item], say: Say
) -> list[str]:
    """Products by the error that a product causes when it alone is int8, the largest first."""
    base = manifest.graph("text", "fp32")
    say(f"      measuring which of {len(quantised.products)} products int8 hurts most")
    arrays = Feed(base.inputs, pad_id=manifest.text.pad_id).arrays(items[:_PROBES])
    names = [tensor.name for tensor in base.outputs]
    exact = _outputs(folder, manifest, base, arrays, names)
    errors: dict[str, float] = {}
    for product in quantised.products:
        others = [name for name in (*quantised.products, *quantised.tables) if name != product]
        probe, _ = _quantised(folder, base, keep=others, name="probe")
        errors[product] = max(
            float(np.abs(output - expected).mean() / (np.abs(expected).mean() + 1e-12))
            for output, expected in zip(_outputs(folder, manifest, probe, arrays, names), exact, strict=True)
        )
        _drop(folder, probe)
    return sorted(errors, key=lambda name: -errors[name])


def _quantised(
    folder: Path, base: Graph, *, keep: Sequence[str], name: str | None = None
) -> tuple[Graph, Quantised]:
    """Writes the int8 form of `base`, in which the products and tables `keep` stay fp32."""
    path = folder / f"{name or Path(base.file).stem}.int8.onnx"
    quantised = int8_from_onnx(folder / base.file, path, keep=keep)
    return _described(base, path, "int8"), quantised


def _outputs(
    folder: Path, manifest: Manifest, graph: Graph, arrays: dict[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """The graph's outputs `names` on one batch, in that order."""
    session = ort.open(folder, manifest, graph, lanes=1)
    try:
        return session.run(arrays, names)  # pyright: ignore[reportReturnType]
    finally:
        session.close()


def _speedup(folder: Path, manifest: Manifest, base: Graph, int8: Graph, items: Sequence[Item]) -> float:
    """fp32 seconds over int8 seconds on the same batch, interleaved, medians of several runs."""
    arrays = Feed(base.inputs, pad_id=manifest.text.pad_id).arrays(items[:_PROBES])
    names = [manifest.heads[manifest.tasks[0]].output]
    sessions = [ort.open(folder, manifest, graph, lanes=1) for graph in (base, int8)]
    seconds: list[list[float]] = [[], []]
    for _ in range(7):
        for session, spent in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.run(arrays, names)
            spent.append(time.perf_counter() - started)
    for session in sessions:
        session.close()
    # The first run of each allocates.
    return median(seconds[0][1:]) / median(seconds[1][1:])


def _described(base: Graph, path: Path, precision: Precision) -> Graph:
    """The manifest's record of a graph that was made of `base` and written to `path`."""
    return dataclasses.replace(base, file=path.name, precision=precision, external=onnx_files.beside(path))


def _drop(folder: Path, graph: Graph) -> None:
    for name in (graph.file, *graph.external):
        (folder / name).unlink()


def probes(folder: Path, manifest: Manifest) -> list[Item]:
    """What drift is measured on: everything that verification will compare."""
    preparation = prepared_for(folder, manifest)
    return [
        *texts.many(manifest, preparation),
        *(item for items in texts.cases(manifest, preparation).values() for item in items),
    ]
