"""Proves an artifact: real texts run through PyTorch and through the runtime that will serve it, as the same
token ids.

Every task is compared on every shape class. Whatever is beyond the tolerance of the precision raises
VerificationError, and no export is finished then.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...runtime import machine
from ...runtime.answers import postprocess
from ...runtime.answers.params import PoolingParams
from ...runtime.artifact import reading as artifacts
from ...runtime.artifact.manifest import (
    INTEGERS,
    WEIGHT_ONLY,
    Engine,
    Evidence,
    Graph,
    Head,
    Manifest,
    Precision,
    Task,
)
from ...runtime.batching.plan import BatchLimits
from ...runtime.batching.stages import Stages, VisionPart
from ...runtime.batching.worker import Worker
from ...runtime.engines import feed, measured, ort, table, trt
from ...runtime.engines.feed import Feed
from ...runtime.engines.table import Choice, Session
from ...runtime.errors import ArtifactError, VerificationError
from ...runtime.inputs.items import Item
from ...runtime.loader import prepared_for
from ...runtime.outputs import Floats
from ..base import artifact
from ..base.large import is_large_graph
from . import texts
from .evidence import compared, holds, summary
from .pictures import drawn

if TYPE_CHECKING:
    from .reference import Reference

# One batch per shape class, however much padding that takes: padded rows are part of what is proved.
_EVERYTHING = BatchLimits(max_tokens=1 << 30, launch_tokens=1 << 30)
_GOLDEN_SHAPES = ("one short", "odd batch", "other languages", "role query", "role document")
_GOLDEN_INPUTS = ("input_ids", "token_type_ids", "attention_mask", "token_kinds")
_RANKED = ("odd batch", "role document")
# Names in golden.npz: the names of the stored pictures, and what was prepared of them.
_PICTURES, _PREPARED = "pictures", "prepared pictures"
_IN_OPENVINO: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
# Name in golden.npz: whether the texts are those of a large model.
_OF_LARGE = "few"


@dataclass(frozen=True, slots=True)
class _Opened:
    """A graph or an engine, opened."""

    name: str
    graph: Graph
    feed: Feed
    session: Session


Way = Engine | Graph | Choice
"""An engine of the artifact, a graph in ONNX Runtime, or a graph in OpenVINO."""


def _opened(folder: Path, manifest: Manifest, engine: Way) -> _Opened:
    if isinstance(engine, Choice):
        inputs = Feed(engine.graph.inputs, pad_id=manifest.text.pad_id)
        return _Opened(engine.name, engine.graph, inputs, table.open(folder, manifest, engine))
    graph = (
        engine
        if isinstance(engine, Graph)
        else next(graph for graph in manifest.graphs if graph.file == engine.graph)
    )
    # Before the session, so that a graph which cannot be filled is refused before an engine takes memory.
    graph = engine.reads(graph) if isinstance(engine, Engine) else graph
    inputs = Feed(graph.inputs, pad_id=manifest.text.pad_id)
    if isinstance(engine, Engine):
        return _Opened(engine.file, graph, inputs, trt.open(folder, manifest, engine))
    if is_large_graph(folder, engine) or engine.precision == "bf16":
        from .sliced_graph import SlicedGraph

        rounded = ", rounded to bf16" if engine.precision == "bf16" else ""
        name = f"onnxruntime:{engine.file} (in pieces{rounded})"
        return _Opened(name, graph, inputs, SlicedGraph(folder, engine))
    session = ort.open(folder, manifest, engine, lanes=1)
    return _Opened(f"onnxruntime:{engine.file}", graph, inputs, session)


def _vision_of(manifest: Manifest, engine: Way) -> Way:
    """The vision half that runs beside a text graph or engine: of the same backend and precision where there
    is one."""
    if isinstance(engine, Choice):
        graphs = {graph.precision: graph for graph in manifest.graphs if graph.role == "vision"}
        if engine.graph.precision in graphs:
            return engine._replace(graph=graphs[engine.graph.precision])
        return engine._replace(graph=manifest.graph("vision", "fp32"), precision="fp32")
    vision = {graph.file: graph for graph in manifest.graphs if graph.role == "vision"}
    if isinstance(engine, Engine):
        for other in manifest.engines:
            same = (other.backend, other.device, other.precision)
            if other.graph in vision and same == (engine.backend, engine.device, engine.precision):
                return other
    for graph in vision.values():
        if graph.precision == engine.precision:
            return graph
    return manifest.graph("vision")


class Runner:
    """One engine of an artifact, run as the runtime runs it, with the vision half beside it where there is
    one."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        engine: Way,
        limits: BatchLimits = _EVERYTHING,
        *,
        through: Callable[[Graph, Session], Session] | None = None,
    ) -> None:
        """
        Args:
            through: what listens to the session of a graph in its place.
        """
        self.manifest = manifest
        self.precision: Precision = _precision(engine)
        text = _opened(folder, manifest, engine)
        self.name = self._seen_by = text.name
        session = text.session if through is None else through(text.graph, text.session)
        worker = Worker(session, feed=text.feed, limits=limits, name="verify")
        self._stages = Stages(worker)
        if manifest.images is not None:
            seeing = _opened(folder, manifest, _vision_of(manifest, engine))
            self._seen_by = seeing.name
            choice, output = Choice("onnxruntime", seeing.graph), seeing.graph.outputs[0].name
            session = seeing.session if through is None else through(seeing.graph, seeing.session)
            part = VisionPart(choice, session, seeing.feed, _EVERYTHING, output, 0)
            self._stages = Stages(worker, part.stage("verify", "fcfs"), apart=manifest.images.apart)

    def name_for(self, items: Sequence[Item]) -> str:
        """Whose answers are compared: the vision half's where the items have pictures."""
        return self._seen_by if any(item.vision for item in items) else self.name

    def answers(self, task: Task, items: Sequence[Item]) -> list[Floats]:
        """Returns an array per item, [dim] or [tokens, dim]; [nan] where the engine's output is not finite.
        The items run as one batch, or as the limits divide them."""
        head = self.manifest.heads[task]
        # The stages free the pixels and the features of what they computed.
        copies = [
            replace(
                item,
                vision=tuple(replace(picture, arrays=dict(picture.arrays)) for picture in item.vision),
            )
            for item in items
        ]
        rows = self._stages.submit(len(copies), [dict(enumerate(copies))], head.output).result().rows
        # Row by row, because a row that is not finite must become a failed comparison and raise nothing.
        return [_answer(task, head, row, item) for row, item in zip(rows, items, strict=True)]

    def close(self) -> None:
        self._stages.close()


def _answer(task: Task, head: Head, row: Floats, item: Item) -> Floats:
    if not np.isfinite(row).all():
        return np.full(1, np.nan, np.float32)
    # A listwise head keeps a few rows of a prompt. In a proof every row of a plain text is compared.
    return postprocess.answers(task, replace(head, keep_ids=()), [row], [item], [PoolingParams()])[0]


def _precision(engine: Way) -> Precision:
    if isinstance(engine, Choice):
        stored = engine.graph.stored
        return stored if stored in WEIGHT_ONLY else engine.precision or stored
    return engine.stored if isinstance(engine, Graph) else engine.precision


def runnable(folder: Path, manifest: Manifest) -> tuple[list[Way], list[str]]:
    """Returns the graphs and engines that this machine can run, and a line for every other one."""
    engines: list[Way] = []
    left_out = []
    for graph in manifest.graphs:
        if graph.role != "text":
            continue
        if graph.precision == "bf16" and not is_large_graph(folder, graph):
            left_out.append(
                f"{graph.file}: onnxruntime has no bf16 on processors; its engines are compared on a GPU"
            )
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
    folder: Path, manifest: Manifest, reference: Reference, *, many: bool = False, also: Sequence[Choice] = ()
) -> tuple[list[Evidence], list[str]]:
    """Compares every runnable engine with PyTorch, and `also` those.

    `many`: on some hundred sentences too, as int8 always is. Returns the evidence, and a line for every graph
    or engine that does not run on this machine.
    """
    preparation = prepared_for(folder, manifest)
    large = any(is_large_graph(folder, graph) for graph in manifest.graphs)
    cases = texts.cases(manifest, preparation, large=large)
    engines, left_out = runnable(folder, manifest)
    evidence: list[Evidence] = []
    for engine in (*engines, *also):
        runner = Runner(folder, manifest, engine)
        try:
            shapes = dict(cases)
            if many or runner.precision in INTEGERS:
                everything = texts.many(manifest, preparation)
                shapes[f"{len(everything)} sentences"] = everything
            # All tasks of a shape class in a row: a graph in pieces computes them together, once.
            for (shape, items), task in itertools.product(shapes.items(), manifest.tasks):
                evidence.append(
                    compared(
                        runner.name_for(items),
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


def against_golden(
    folder: Path, manifest: Manifest, *, also: Sequence[Choice] = ()
) -> tuple[list[Evidence], list[str]]:
    """Compares every runnable engine, and `also` those, with the answers stored at export: all texts
    together, and one by one.

    Returns as `against_reference`. Raises ArtifactError and VerificationError for golden texts that cannot be
    read.
    """
    items, expected = _read_golden(folder, manifest)
    parts = [("", slice(0, len(items)))]
    if shown := sum(bool(item.vision) for item in items):
        parts = [("", slice(0, len(items) - shown)), (" pictures", slice(len(items) - shown, len(items)))]
    engines, left_out = runnable(folder, manifest)
    evidence: list[Evidence] = []
    for engine in (*engines, *also):
        runner = Runner(folder, manifest, engine)
        try:
            alone = not isinstance(engine, Graph) or not is_large_graph(folder, engine)
            for (what, part), task in itertools.product(parts, manifest.tasks):
                several = items[part]
                runs = [(f"golden{what} together", runner.answers(task, several))]
                if alone:
                    runs.append(
                        (f"golden{what} alone", [runner.answers(task, [item])[0] for item in several])
                    )
                name = runner.name_for(several)
                for shape, answers in runs:
                    evidence.append(
                        compared(name, runner.precision, task, shape, answers, expected[task][part])
                    )
        finally:
            runner.close()
    return evidence, left_out


def in_openvino(folder: Path, manifest: Manifest) -> list[Choice]:
    """Returns the text graph in each precision that OpenVINO computes fast here; none for a graph that is
    opened in pieces, because OpenVINO holds all of it. Raises EngineError where OpenVINO is missing."""
    integers = [
        Choice("openvino", graph, precision="int8")
        for graph in manifest.graphs
        if graph.role == "text" and graph.static_scales
    ]
    return integers + [
        Choice("openvino", graph, precision=precision)
        for graph in manifest.graphs
        if graph.role == "text" and graph.precision == "fp32" and not is_large_graph(folder, graph)
        for precision in _IN_OPENVINO
        if measured.gains(precision)
    ]


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
    """Stores the token ids of a few texts, a few pictures, and PyTorch's answers: a proof that needs no
    checkpoint later."""
    large = any(is_large_graph(folder, graph) for graph in manifest.graphs)
    items, sources = golden_items(folder, manifest, large=large), _golden_pictures(manifest, large=large)
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
    shown = _golden_shown(folder, manifest, sources, large=large)
    if shown:
        arrays[_PICTURES] = np.array([*sources])
        arrays |= {f"{_PICTURES} {number}": pixels for number, pixels in enumerate(sources.values())}
        arrays[_PREPARED] = np.array([_digest(item) for item in shown])
    for task in manifest.tasks:
        answers = reference.answers(task, [*items, *shown])
        arrays[task] = np.concatenate([answer.reshape(-1) for answer in answers])
        arrays[f"{task}_shapes"] = np.array(
            [[*answer.shape, *([-1] * (2 - answer.ndim))] for answer in answers], np.int64
        )
    artifact.write_golden(folder, arrays)


def _golden_pictures(manifest: Manifest, *, large: bool) -> dict[str, drawn.Pixels]:
    """Name -> the pictures that are stored; none for a model that reads text only."""
    if manifest.images is None:
        return {}
    return drawn.strip() if large else drawn.sources()


def _golden_shown(
    folder: Path, manifest: Manifest, sources: Mapping[str, drawn.Pixels], *, large: bool
) -> list[Item]:
    """A prompt for each stored picture."""
    preparation = prepared_for(folder, manifest)
    return texts.with_pictures(manifest, preparation, sources, large=large) if sources else []


def _digest(item: Item) -> str:
    """Of a prompt's token ids and of its prepared pictures."""
    parts = [str(item.ids).encode(), *(picture.digest for picture in item.vision)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def golden_items(folder: Path, manifest: Manifest, *, large: bool) -> list[Item]:
    """The texts whose answers an artifact keeps, prepared."""
    preparation = prepared_for(folder, manifest)
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
        names = [str(name) for name in arrays[_PICTURES]] if _PICTURES in arrays else []
        stored = {name: arrays[f"{_PICTURES} {number}"] for number, name in enumerate(names)}
        prepared = dict(zip(names, map(str, arrays[_PREPARED]), strict=True)) if names else {}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder / artifact.GOLDEN}: not readable ({error}); export it again") from None
    large = _OF_LARGE in arrays and bool(arrays[_OF_LARGE])
    today = golden_items(folder, manifest, large=large)
    if [item.ids for item in today] != [item.ids for item in items]:
        raise VerificationError(
            f"{folder}: this poolrt or its tokenizers library makes other token ids of the "
            "golden texts; export it again"
        )
    if not has_kinds:  # an older poolrt did not store them; the same texts have the same kinds today
        for item, fresh in zip(items, today, strict=True):
            item.kinds = fresh.kinds
    return _with_stored(folder, manifest, items, expected, stored, prepared, large=large)


def _with_stored(
    folder: Path,
    manifest: Manifest,
    items: list[Item],
    expected: Mapping[str, list[Floats]],
    stored: Mapping[str, drawn.Pixels],
    prepared: Mapping[str, str],
    *,
    large: bool,
) -> tuple[list[Item], Mapping[str, list[Floats]]]:
    """The items of the texts and of the stored pictures. Without Pillow those that are files are left out.

    Raises VerificationError where today's preparation makes something else of a picture.
    """
    readable = importlib.util.find_spec("PIL") is not None
    kept = [name for name, pixels in stored.items() if readable or pixels.ndim > 1]
    if not kept:
        return items, expected
    every = dict(zip(stored, range(len(items), len(items) + len(stored)), strict=True))
    # The text beside a picture depends on its place among all of them.
    shown: list[Item] = []
    preparation = prepared_for(folder, manifest)
    for number, (name, pixels) in enumerate(stored.items()):
        if name in kept:
            shown += texts.with_picture(manifest, preparation, pixels, number, large=large)
    changed = [name for name, item in zip(kept, shown, strict=True) if _digest(item) != prepared[name]]
    if changed:
        raise VerificationError(
            f"{folder}: this poolrt prepares the golden pictures {', '.join(changed)} otherwise than the one "
            "that exported it; export it again"
        )
    places = [*range(len(items)), *(every[name] for name in kept)]
    return [*items, *shown], {
        task: [answers[place] for place in places] for task, answers in expected.items()
    }


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
    taken = measured.choose(opened.folder, opened.manifest, measured.stated("auto"))
    also = [taken] if taken.backend == "openvino" else []
    evidence, left_out = against_golden(opened.folder, opened.manifest, also=also)
    if reference is not None:
        evidence += against_reference(opened.folder, opened.manifest, reference, also=also)[0]
    enforce(evidence, "do not serve this artifact; export it again")
    return evidence, left_out
