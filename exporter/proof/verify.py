"""Proves an artifact: real texts run through PyTorch and through the runtime that will serve it, as the same
token ids.

Every task is compared on every shape class. Whatever is beyond the tolerance of the precision raises
VerificationError, and no export is finished then.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...runtime import machine
from ...runtime.answers import postprocess
from ...runtime.answers.params import PoolingParams
from ...runtime.artifact import reading as artifacts
from ...runtime.artifact.manifest import Engine, Evidence, Graph, Head, Manifest, Precision, Task
from ...runtime.batching.plan import BatchLimits
from ...runtime.batching.worker import Worker
from ...runtime.engines import feed, ort, trt
from ...runtime.engines.feed import Feed
from ...runtime.engines.table import Session
from ...runtime.errors import ArtifactError, VerificationError
from ...runtime.inputs.items import Item
from ...runtime.inputs.preparation import Preparation
from ...runtime.outputs import Floats
from ..base import artifact
from ..base.large import is_large_graph
from . import texts
from .evidence import compared, holds, summary

if TYPE_CHECKING:
    from .reference import Reference

# One batch per shape class, however much padding that takes: padded rows are part of what is proved.
_EVERYTHING = BatchLimits(max_tokens=1 << 30, launch_tokens=1 << 30)
_GOLDEN_SHAPES = ("one short", "odd batch", "other languages", "role query", "role document")
_GOLDEN_INPUTS = ("input_ids", "token_type_ids", "attention_mask", "token_kinds")
_RANKED = ("odd batch", "role document")
# Name in golden.npz: whether the texts are those of a large model.
_OF_LARGE = "few"


class Runner:
    """One engine of an artifact, run as the runtime runs it."""

    def __init__(self, folder: Path, manifest: Manifest, engine: Engine | Graph) -> None:
        self.manifest = manifest
        self.precision: Precision = engine.precision
        graph = (
            engine
            if isinstance(engine, Graph)
            else next(graph for graph in manifest.graphs if graph.file == engine.graph)
        )
        # Before the session, so that a graph which cannot be filled is refused before an engine takes memory.
        inputs = Feed(graph.inputs, pad_id=manifest.text.pad_id)
        if isinstance(engine, Engine):
            self.name = engine.file
            session: Session = trt.open(folder, manifest, engine)
        elif is_large_graph(folder, engine):
            from .sliced_graph import SlicedGraph

            self.name = (
                f"onnxruntime:{engine.file} (in "
                f"pieces{', rounded to bf16' if engine.precision == 'bf16' else ''})"
            )
            session = SlicedGraph(folder, engine)
        else:
            self.name = f"onnxruntime:{engine.file}"
            session = ort.open(folder, manifest, engine, lanes=1)
        self._worker = Worker(session, feed=inputs, limits=_EVERYTHING, name="verify")

    def answers(self, task: Task, items: Sequence[Item]) -> list[Floats]:
        """All items as one batch. Returns an array per item, [dim] or [tokens, dim]; [nan] where the engine's
        output is not finite."""
        head = self.manifest.heads[task]
        rows = self._worker.submit(items, head.output).result().rows
        # Row by row, because a row that is not finite must become a failed comparison and raise nothing.
        return [_answer(task, head, row, item) for row, item in zip(rows, items, strict=True)]

    def close(self) -> None:
        self._worker.close()


def _answer(task: Task, head: Head, row: Floats, item: Item) -> Floats:
    if not np.isfinite(row).all():
        return np.full(1, np.nan, np.float32)
    # A listwise head keeps a few rows of a prompt. In a proof every row of a plain text is compared.
    return postprocess.answers(task, replace(head, keep_ids=()), [row], [item], [PoolingParams()])[0]


def runnable(folder: Path, manifest: Manifest) -> tuple[list[Engine | Graph], list[str]]:
    """Returns the graphs and engines that this machine can run, and a line for every other one."""
    engines: list[Engine | Graph] = []
    left_out = []
    for graph in manifest.graphs:
        if graph.role != "text":
            continue
        if graph.precision == "bf16" and not is_large_graph(folder, graph):
            left_out.append(f"{graph.file}: onnxruntime has no bf16 on processors; it was compiled, not run")
        else:
            engines.append(graph)
    devices = {gpu.device for gpu in machine.gpus()[:1]}
    roles = {graph.file: graph.role for graph in manifest.graphs}
    for engine in manifest.engines:
        if roles[engine.graph] != "text":
            continue
        if engine.device in devices:
            engines.append(engine)
        else:
            left_out.append(
                f"{engine.file}: needs a {engine.device} GPU to run; `poolrt verify ARTIFACT` there proves it"
            )
    return engines, left_out


def against_reference(
    folder: Path, manifest: Manifest, reference: Reference, *, many: bool = False
) -> tuple[list[Evidence], list[str]]:
    """Compares every runnable engine with PyTorch.

    `many`: on some hundred sentences too, as int8 always is. Returns the evidence, and a line for every graph
    or engine that does not run on this machine.
    """
    preparation = Preparation(folder, manifest)
    large = any(is_large_graph(folder, graph) for graph in manifest.graphs)
    cases = texts.cases(manifest, preparation, large=large)
    engines, left_out = runnable(folder, manifest)
    evidence: list[Evidence] = []
    for engine in engines:
        runner = Runner(folder, manifest, engine)
        try:
            shapes = dict(cases)
            if many or runner.precision == "int8":
                everything = texts.many(manifest, preparation)
                shapes[f"{len(everything)} sentences"] = everything
            for task in manifest.tasks:
                for shape, items in shapes.items():
                    evidence.append(
                        compared(
                            runner.name,
                            runner.precision,
                            task,
                            shape,
                            runner.answers(task, items),
                            reference.answers(task, items),
                            ranks=shape in _RANKED,
                        )
                    )
        finally:
            runner.close()
    return evidence, left_out


def against_golden(folder: Path, manifest: Manifest) -> tuple[list[Evidence], list[str]]:
    """Compares every runnable engine with the answers stored at export: all texts together, and one by one.

    Returns as `against_reference`. Raises ArtifactError and VerificationError for golden texts that cannot be
    read.
    """
    items, expected = _read_golden(folder, manifest)
    engines, left_out = runnable(folder, manifest)
    evidence: list[Evidence] = []
    for engine in engines:
        runner = Runner(folder, manifest, engine)
        try:
            for task in manifest.tasks:
                runs = [("golden together", runner.answers(task, items))]
                if not isinstance(engine, Graph) or not is_large_graph(folder, engine):
                    runs.append(("golden alone", [runner.answers(task, [item])[0] for item in items]))
                for shape, answers in runs:
                    evidence.append(
                        compared(runner.name, runner.precision, task, shape, answers, expected[task])
                    )
        finally:
            runner.close()
    return evidence, left_out


def enforce(evidence: Sequence[Evidence], advice: str = "") -> None:
    """Raises VerificationError with a line for every comparison beyond its tolerance.

    `advice` ends the message: what to do then.
    """
    failed = [summary(comparison) for comparison in evidence if not holds(comparison)]
    if failed:
        lines = "".join(f"\n  {line}" for line in failed) + (f"\n{advice}" if advice else "")
        raise VerificationError(
            f"{len(failed)} of {len(evidence)} comparisons with PyTorch are beyond the tolerance:{lines}"
        )


def golden(folder: Path, manifest: Manifest, reference: Reference) -> None:
    """Stores the token ids of a few texts and PyTorch's answers: a proof that needs no checkpoint later."""
    large = any(is_large_graph(folder, graph) for graph in manifest.graphs)
    items = _golden_items(folder, manifest, large=large)
    arrays: dict[str, NDArray[Any]] = {
        _OF_LARGE: np.array(large),
        "lengths": np.array([len(item.ids) for item in items], np.int64),
        **{
            name: np.concatenate([np.array(feed.values(name, item), np.int64) for item in items])
            for name in _GOLDEN_INPUTS
        },
        "keep": np.concatenate(
            [np.ones(len(item.ids), np.bool_) if item.keep is None else np.array(item.keep) for item in items]
        ),
    }
    for task in manifest.tasks:
        answers = reference.answers(task, items)
        arrays[task] = np.concatenate([answer.reshape(-1) for answer in answers])
        arrays[f"{task}_shapes"] = np.array(
            [[*answer.shape, *([-1] * (2 - answer.ndim))] for answer in answers], np.int64
        )
    artifact.write_golden(folder, arrays)


def _golden_items(folder: Path, manifest: Manifest, *, large: bool) -> list[Item]:
    preparation = Preparation(folder, manifest)
    cases = texts.cases(manifest, preparation, large=large)
    return [item for shape in _GOLDEN_SHAPES for item in cases.get(shape, ())]


def _read_golden(folder: Path, manifest: Manifest) -> tuple[list[Item], Mapping[str, list[Floats]]]:
    """Returns the stored items, and the stored answers by task.

    Raises ArtifactError for a file that is not readable, and VerificationError if today's text preparation
    makes other items.
    """
    try:
        arrays = artifact.read_golden(folder)
        has_kinds = "token_kinds" in arrays
        arrays.setdefault("token_kinds", np.zeros_like(arrays["input_ids"]))
        ends = np.cumsum(arrays["lengths"])[:-1]
        columns = [np.split(arrays[name], ends) for name in (*_GOLDEN_INPUTS, "keep")]
        items = [
            Item(
                ids=ids.tolist(),
                type_ids=types.tolist(),
                attention=mask.tolist(),
                kinds=kinds.tolist(),
                keep=None if keep.all() else keep,
            )
            for ids, types, mask, kinds, keep in zip(*columns, strict=True)
        ]
        expected = {task: _unflattened(arrays[task], arrays[f"{task}_shapes"]) for task in manifest.tasks}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder / artifact.GOLDEN}: not readable ({error}); export it again") from None
    today = _golden_items(folder, manifest, large=_OF_LARGE in arrays and bool(arrays[_OF_LARGE]))
    if [item.ids for item in today] != [item.ids for item in items]:
        raise VerificationError(
            f"{folder}: this poolrt or its tokenizers library makes other token ids of the "
            "golden texts; export it again"
        )
    if not has_kinds:  # an older poolrt did not store them; the same texts have the same kinds today
        for item, prepared in zip(items, today, strict=True):
            item.kinds = prepared.kinds
    return items, expected


def _unflattened(flat: Floats, shapes: NDArray[np.int64]) -> list[Floats]:
    """`shapes`: [texts, 2], filled with -1 behind the axes that there are."""
    axes = [tuple(int(size) for size in shape if size >= 0) for shape in shapes]
    ends = np.cumsum([int(np.prod(shape)) for shape in axes])[:-1]
    return [values.reshape(shape) for values, shape in zip(np.split(flat, ends), axes, strict=True)]


def verified(path: str | Path, reference: Reference | None) -> tuple[list[Evidence], list[str]]:
    """Compares an artifact with its golden answers, and with PyTorch where there is a reference.

    Returns as `against_reference`. Raises ArtifactError and VerificationError.
    """
    opened = artifacts.read(path)
    evidence, left_out = against_golden(opened.folder, opened.manifest)
    if reference is not None:
        evidence += against_reference(opened.folder, opened.manifest, reference)[0]
    enforce(evidence, "do not serve this artifact; export it again")
    return evidence, left_out
