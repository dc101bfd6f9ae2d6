"""Which numbers the graph computes in, decided by what was measured.

`fp32` is the graph as exported. `int8` is for processors, `fp16` and `bf16` are for GPUs. `auto` takes int8
if it keeps to its drift budget and is faster here, else fp32; either way it says why.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from ..runtime.artifact.manifest import Graph, Manifest, Precision
from ..runtime.engines import ort
from ..runtime.engines.feed import Feed
from ..runtime.errors import InputError
from ..runtime.inputs.items import Item
from ..runtime.inputs.preparation import Preparation
from . import engine
from .base.report import Say
from .graph import onnx_files
from .graph.passes.int8 import Quantised, int8_from_onnx
from .graph.passes.mixed import lower, mixed_from_onnx
from .proof import evidence, texts
from .proof.reference import Reference
from .proof.verify import Runner

Asked = Literal["fp32", "fp16", "bf16", "int8", "auto"]
ASKED: tuple[Asked, ...] = ("fp32", "fp16", "bf16", "int8", "auto")
# Shares of the products, the most sensitive first, that are given back to fp32 until the budget holds.
_GIVEN_BACK = (0.0, 0.1, 0.25, 0.5)
# int8 must pay for its drift: auto takes it from this speed-up on.
_WORTH_IT = 1.2
_PROBES = 24


@dataclass(frozen=True, slots=True)
class Chosen:
    graphs: tuple[Graph, ...]
    notes: tuple[str, ...]


def check(asked: str, targets: Sequence[engine.Target], *, large: bool = False) -> Asked:
    """Raises InputError for a precision that does not exist, or that the targets cannot compile.

    `large`: whether the model is too large to be held, and its engine compiled elsewhere;
    then bf16 needs no target.
    """
    if asked not in ASKED:
        raise InputError(f"precision {asked!r}: expected one of {', '.join(ASKED)}", field="precision")
    if asked in ("int8", "auto") and targets:
        raise InputError(
            (
                f"precision {asked} is for processors, target {targets[0]} compiles fp32, fp16 or bf16; "
                "export twice, with two --name"
            ),
            field="precision",
        )
    if asked == "bf16" and not targets and not large:
        raise InputError(
            (
                "precision bf16 needs a TensorRT target, as onnxruntime has no bf16 on processors; use "
                "fp16, or add --target"
            ),
            field="precision",
        )
    return asked  # pyright: ignore[reportReturnType]


def chosen(
    asked: Asked, folder: Path, draft: Manifest, reference: Reference, items: Sequence[Item], say: Say
) -> Chosen:
    """Writes the graph that `asked` means beside the fp32 one and drops what is not needed.
    `draft` has the fp32 graph."""
    base = draft.graph("text", "fp32")
    if asked == "fp32":
        return Chosen((base,), ())
    if asked in ("fp16", "bf16"):
        made = _written(
            folder,
            dataclasses.replace(base, packed=False),
            asked,
            lambda path: mixed_from_onnx(folder / base.file, path, asked),
        )
        # onnxruntime computes fp16 on processors (slowly), so the one graph serves both; bf16 it cannot.
        if asked == "bf16":
            return Chosen((base, made), ("bf16 is for the engines; onnxruntime runs the fp32 graph",))
        _drop(folder, base)
        return Chosen((made,), ())
    return _int8(asked, folder, draft, reference, items, say)


def lowered_in_place(
    model: Any, graph: Graph, asked: Literal["fp16", "bf16"]
) -> tuple[Graph, tuple[str, ...]]:
    """Gives the graph of a large model (exporter/graph/streaming.py) its mixed form before it is written."""
    lower(model, asked)
    notes = (
        (("the graph is bf16: it runs in engines, which `poolrt build` compiles where the GPU is"),)
        if asked == "bf16"
        else ()
    )
    return dataclasses.replace(graph, file=f"model.{asked}.onnx", precision=asked), notes


def _int8(
    asked: Asked, folder: Path, draft: Manifest, reference: Reference, items: Sequence[Item], say: Say
) -> Chosen:
    base = draft.graph("text", "fp32")
    made, facts, within = _within_budget(folder, draft, reference, items, say)
    # A GPU-sized model is not timed for a choice that was already made.
    speed = _speedup(folder, draft, base, made, items) if within or asked == "int8" else 0.0
    kept = f", {len(facts.kept)} products kept in fp32" if facts.kept else ""
    told = (
        f"int8: {len(facts.products)} products and {len(facts.tables)} tables quantised{kept}; {speed:.2f} "
        "times the speed of fp32 here"
    )
    if asked == "int8" or (within and speed >= _WORTH_IT):
        _drop(folder, base)
        return Chosen((made,), (told,) if asked == "int8" else (f"auto chose int8. {told}",))
    _drop(folder, made)
    reason = (
        (f"int8 is {speed:.2f} times as fast here, less than {_WORTH_IT}")
        if within
        else "int8 drifts beyond its budget"
    )
    return Chosen((base,), (f"auto chose fp32: {reason}",))


def _within_budget(
    folder: Path, draft: Manifest, reference: Reference, items: Sequence[Item], say: Say
) -> tuple[Graph, Quantised, bool]:
    """The fastest int8 graph that keeps to the budget; else the most careful one tried, and False."""
    base = draft.graph("text", "fp32")
    order: list[str] = []
    made, facts = base, Quantised((), (), ())
    for share in _GIVEN_BACK:
        if share and not order:
            order = _by_sensitivity(folder, draft, facts, items, say)
        keep = order[: round(share * len(order))]
        found: list[Quantised] = []
        made = _written(
            folder,
            base,
            "int8",
            lambda path, keep=keep, found=found: found.append(
                int8_from_onnx(folder / base.file, path, keep=keep)
            ),
        )
        facts = found[0]
        failed = _drift(folder, draft, made, reference, items)
        if not failed:
            return made, facts, True
        say(f"      int8 with {len(facts.kept)} products in fp32 drifts too far: {failed[0]}")
    return made, facts, False


def _drift(
    folder: Path, draft: Manifest, graph: Graph, reference: Reference, items: Sequence[Item]
) -> list[str]:
    runner = Runner(folder, dataclasses.replace(draft, graphs=(graph,)), graph)
    try:
        measured = [
            evidence.compared(
                runner.name,
                "int8",
                task,
                f"{len(items)} texts",
                runner.answers(task, items),
                reference.answers(task, items),
            )
            for task in draft.tasks
        ]
    finally:
        runner.close()
    return [evidence.told(each) for each in measured if not evidence.holds(each)]


def _by_sensitivity(
    folder: Path, draft: Manifest, facts: Quantised, items: Sequence[Item], say: Say
) -> list[str]:
    """Products by the error each causes when it alone is quantised, the largest first."""
    base = draft.graph("text", "fp32")
    say(f"      measuring which of {len(facts.products)} products int8 hurts most")
    feed = Feed(base.inputs, pad_id=draft.text.pad_id).arrays(items[:_PROBES])
    names = [tensor.name for tensor in base.outputs]
    exact = _run(folder, draft, base, feed, names)
    errors = {}
    for product in facts.products:
        others = [name for name in (*facts.products, *facts.tables) if name != product]
        alone = _written(
            folder,
            base,
            "int8",
            lambda path, others=others: int8_from_onnx(folder / base.file, path, keep=others),
            name="probe",
        )
        answers = _run(folder, draft, alone, feed, names)
        errors[product] = max(
            float(np.abs(one - other).mean() / (np.abs(other).mean() + 1e-12))
            for one, other in zip(answers, exact, strict=True)
        )
        _drop(folder, alone)
    return sorted(errors, key=lambda name: -errors[name])


def _run(
    folder: Path, draft: Manifest, graph: Graph, feed: dict[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    session = ort.open(folder, draft, graph, lanes=1)
    try:
        return session.run(feed, names)  # pyright: ignore[reportReturnType]
    finally:
        session.close()


def _speedup(folder: Path, draft: Manifest, base: Graph, made: Graph, items: Sequence[Item]) -> float:
    """fp32 seconds over int8 seconds on the same batch, interleaved, medians of several runs."""
    feed = Feed(base.inputs, pad_id=draft.text.pad_id).arrays(items[:_PROBES])
    output = [draft.heads[draft.tasks[0]].output]
    sessions = [ort.open(folder, draft, graph, lanes=1) for graph in (base, made)]
    seconds: list[list[float]] = [[], []]
    for _ in range(7):
        for session, spent in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.run(feed, output)
            spent.append(time.perf_counter() - started)
    for session in sessions:
        session.close()
    # The first run of each allocates.
    return median(seconds[0][1:]) / median(seconds[1][1:])


def _written(
    folder: Path, base: Graph, precision: Precision, write: Callable[[Path], object], *, name: str = "model"
) -> Graph:
    file = f"{name}.{precision}.onnx"
    write(folder / file)
    return dataclasses.replace(
        base, file=file, precision=precision, external=onnx_files.beside(folder / file)
    )


def _drop(folder: Path, graph: Graph) -> None:
    for name in (graph.file, *graph.external):
        (folder / name).unlink()


def probes(folder: Path, draft: Manifest) -> list[Item]:
    """What drift is measured on: everything that verification will compare."""
    preparation = Preparation(folder, draft)
    return [
        *texts.many(draft, preparation),
        *(item for items in texts.cases(draft, preparation).values() for item in items),
    ]
