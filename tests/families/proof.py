"""From a tiny checkpoint to answers of the exported graph, for comparison with code that is not ours.

The graph runs under ONNX Runtime on one padded batch; the runtime's own arithmetic finishes the rows.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.families import registry
from poolrt.exporter.graph import tracing as graph
from poolrt.exporter.heads import planning
from poolrt.runtime.answers import postprocess
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.artifact import manifest
from poolrt.runtime.artifact.manifest import KEPT, PAST, Graph
from poolrt.runtime.inputs import colbert
from poolrt.runtime.inputs.items import Item
from tokenizers import Tokenizer

from . import TEXTS
from .evidence import SETTING, note

Floats = npt.NDArray[np.float32]

COSINE = 1 - 1e-6  # fp32 against fp32: worst measured over all families 1 - 2e-7 (a sum in another order)
DIFFERENCE = 1e-5  # of logits and probabilities, likewise; worst measured 5e-6
LOWERED = {"fp16": (0.999, 0.05), "bf16": (0.99, 0.2), "int8": (0.9, 0.5)}
"""Precision -> least cosine of a median text, and largest difference of a score, as a share of one beyond 1.
Random weights drift more than trained ones; these catch a broken graph."""


@dataclass
class Proved:
    folder: Path
    checkpoint: checkpoint.Checkpoint
    plan: planning.Plan
    module: graph.PoolingModel
    graph: manifest.Graph | None
    session: onnxruntime.InferenceSession | None
    """None: the torch module answers in the graph's place."""
    tokenizer: Tokenizer

    def item(self, text: str | tuple[str, str] | Sequence[int], role: str | None = None) -> Item:
        """Cut at the model's limit or the role's; a pair of texts, or ids as they are."""
        if not isinstance(text, str) and not (len(text) == 2 and isinstance(text[0], str)):
            return Item(ids=[int(token) for token in text])  # pyright: ignore[reportArgumentType]
        known = self.plan.text.roles[role] if role else None
        most = self.plan.text.max_tokens if known is None or known.max_tokens is None else known.max_tokens
        self.tokenizer.enable_truncation(most - (known is not None and known.marker_id is not None))
        encoded = self.tokenizer.encode(text) if isinstance(text, str) else self.tokenizer.encode(*text)  # pyright: ignore[reportCallIssue, reportArgumentType]
        item = Item(ids=encoded.ids, type_ids=encoded.type_ids)
        if known is not None:
            item.type_ids = None
            item = colbert.apply(known, item)
        return item

    def rows(
        self, items: Sequence[Item], session: onnxruntime.InferenceSession | None = None
    ) -> list[dict[str, Floats]]:
        """Graph outputs per item, computed as one batch padded to its longest."""
        shape = (len(items), max(len(item.ids) for item in items))
        feed = {name: np.zeros(shape, dtype=np.int64) for name in self.plan.inputs}
        feed["input_ids"][:] = self.plan.text.pad_id
        for row, item in enumerate(items):
            count = len(item.ids)
            feed["input_ids"][row, :count] = item.ids
            feed["attention_mask"][row, :count] = 1 if item.attention is None else item.attention
            if "token_kinds" in feed and item.kinds is not None:
                feed["token_kinds"][row, :count] = item.kinds
            if "token_type_ids" in feed and item.type_ids is not None:
                feed["token_type_ids"][row, :count] = item.type_ids
        names = [self.plan.heads[task].output for task in self.plan.tasks]
        session = session or self.session
        if session is None:
            with torch.inference_mode():
                found = [
                    array.numpy()
                    for array in self.module(*(torch.from_numpy(feed[name]) for name in self.plan.inputs))
                ]
        else:
            found = [np.asarray(array) for array in session.run(names, feed | no_prefix(session))]
        return [
            {
                name: (array[row, : len(item.ids)] if array.ndim == 3 else array[row])
                for name, array in zip(names, found, strict=True)
            }
            for row, item in enumerate(items)
        ]

    def raw(self, task: manifest.Task, texts: Sequence[Any], *, role: str | None = None) -> list[Floats]:
        """The graph's own output for a task, before anything the runtime does."""
        return [
            found[self.plan.heads[task].output]
            for found in self.rows([self.item(text, role) for text in texts])
        ]

    def answers(
        self, task: manifest.Task, texts: Sequence[Any], *, role: str | None = None, **asked: Any
    ) -> list[Floats]:
        items = [self.item(text, role) for text in texts]
        head, params = self.plan.heads[task], PoolingParams(**asked)
        return postprocess.answers(
            task, head, [found[head.output] for found in self.rows(items)], items, [params] * len(items)
        )

    def ids(self, texts: Sequence[Any], *, role: str | None = None) -> list[list[int]]:
        return [self.item(text, role).ids for text in texts]


def prove(folder: Path, out: Path | None = None, **asked: Any) -> Proved:
    """Reads and plans without any recipe: the files alone must be enough. `asked` goes to `checkpoint.read`.

    With `out` the graph is exported there and ONNX Runtime answers; without, the module
    that would be exported does.
    """
    read = checkpoint.read(folder, **{"recipe": None, **asked})
    plan = planning.plan(read)
    module = graph.module(read, plan)
    tokenizer = Tokenizer.from_str(plan.files["tokenizer.json"].decode())
    note(architecture=read.architecture, file=file_of(read.family), tasks=plan.tasks)
    if out is None:
        return Proved(folder, read, plan, module, None, None, tokenizer)
    described = graph.onnx_from_module(module, plan, out / "model.onnx")
    note(exported=True)
    return Proved(out, read, plan, module, described, opened(out / "model.onnx"), tokenizer)


def file_of(family: registry.Architecture) -> str:
    """The file of exporter/families that reads it: what a family adapts to a
    config, its loader is its own."""
    for name in registry.names():
        if importlib.import_module(f"poolrt.exporter.families.{name}").ARCHITECTURE.load is family.load:
            return name
    raise AssertionError(f"no file reads {family.names[0]}")


def shown(known: manifest.Manifest) -> None:
    """Notes an exported artifact, whose answers are compared next."""
    [file] = [
        name
        for name in registry.names()
        if known.architecture
        in importlib.import_module(f"poolrt.exporter.families.{name}").ARCHITECTURE.names
    ]
    note(architecture=known.architecture, file=file, tasks=list(known.tasks))
    note(exported=True)


def read_from(folder: Path) -> None:
    """Notes a checkpoint whose exported graph is compared next; nothing where nobody reads notes."""
    if SETTING not in os.environ:
        return
    read = checkpoint.read(folder, recipe=None)
    note(architecture=read.architecture, file=file_of(read.family), tasks=planning.plan(read).tasks)
    note(exported=True)


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def no_prefix(session: Any) -> dict[str, Any]:
    """The inputs that say that nothing stands in front of the texts, of a graph that has them."""
    if not isinstance(session, onnxruntime.InferenceSession):
        return {}
    return {
        value.name: np.zeros(
            [size if isinstance(size, int) else 0 for size in value.shape],
            np.float32 if value.name == PAST else np.int64,
        )
        for value in session.get_inputs()
        if value.name in (PAST, KEPT)
    }


def cosines(ours: Sequence[Floats], theirs: Sequence[Any], *, of: str = "cosine") -> Floats:
    """Worst cosine per text; token arrays are compared row by row. `of`: what is measured, for
    docs/models.md; "" for comparisons that are meant to differ."""
    worst = []
    for one, other in zip(ours, theirs, strict=True):
        one, other = np.atleast_2d(np.float64(one)), np.atleast_2d(np.float64(other))
        assert one.shape == other.shape, f"{one.shape}, expected {other.shape}"
        norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        worst.append((np.einsum("ij,ij->i", one, other) / norms).min())
    if of:
        note(**{of: float(np.median(worst) if of != "cosine" else min(worst))})
    return np.array(worst)


def differences(ours: Sequence[Floats], theirs: Sequence[Any]) -> float:
    """Largest absolute difference over all texts."""
    worst = max(
        float(np.abs(np.float64(one) - np.float64(other)).max())
        for one, other in zip(ours, theirs, strict=True)
    )
    note(difference=worst)
    return worst


def answers_lower(precision: str, ours: Sequence[Floats], exact: Sequence[Floats], *, scores: bool) -> None:
    """Asserts that a lowered graph's answers are near the float32 one's, and notes how far they are."""
    cosine, difference = LOWERED[precision]
    if not scores:
        assert np.median(cosines(ours, exact, of=precision)) > cosine, precision
        return
    worst = max(  # of some texts no token is scored
        float((np.abs(np.float64(one) - other) / np.maximum(1.0, np.abs(other))).max(initial=0.0))
        for one, other in zip(ours, exact, strict=True)
    )
    note(**{f"{precision}_difference": worst})
    assert worst < difference, precision


def compiles_and_lowers(proved: Proved) -> None:
    """A TensorRT-RTX engine for SM89 from the graph, and fp16, bf16 and int8 graphs that still answer the
    same. bf16 is computed in pieces."""
    from poolrt.exporter import engine
    from poolrt.exporter.graph import rewriting
    from poolrt.exporter.proof.sliced_graph import SlicedGraph

    assert proved.graph is not None
    target = engine.Target("tensorrt-rtx", "sm89")
    made = engine.engine_from_onnx(
        proved.folder, proved.graph, target, max_tokens=proved.plan.text.max_tokens
    )
    assert (proved.folder / made.file).stat().st_size > 0
    note(compiled=made.device, version=made.version)
    source = proved.folder / proved.graph.file
    for precision in ("fp16", "bf16"):
        rewriting.mixed_from_onnx(source, proved.folder / f"{precision}.onnx", precision)
    rewriting.int8_from_onnx(source, proved.folder / "int8.onnx")
    # Some tokenizers make nothing of an empty text
    items = [item for text in TEXTS if (item := proved.item(text)).ids]
    exact = proved.rows(items)
    for precision in LOWERED:
        session: Any
        if precision == "bf16":
            graph = dataclasses.replace(proved.graph, file="bf16.onnx", precision="bf16", packed=False)
            session = _InPieces(SlicedGraph(proved.folder, graph), graph)
        else:
            session = opened(proved.folder / f"{precision}.onnx")
        found = proved.rows(items, session)
        for task in proved.plan.tasks:
            head = proved.plan.heads[task]
            ours, theirs = ([row[head.output] for row in rows] for rows in (found, exact))
            scores = "classify" in task
            if scores:
                params = [PoolingParams()] * len(items)
                ours, theirs = (
                    postprocess.answers(task, head, rows, items, params) for rows in (ours, theirs)
                )
            answers_lower(precision, ours, theirs, scores=scores)


@dataclass
class _InPieces:
    """A graph that runs in pieces, with the arguments of ONNX Runtime's sessions."""

    pieces: Any
    graph: Graph

    def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Floats]:
        nothing = {
            tensor.name: np.zeros(
                [axis if isinstance(axis, int) else 0 for axis in tensor.axes], tensor.dtype
            )
            for tensor in self.graph.inputs
            if tensor.name in (PAST, KEPT)
        }
        return self.pieces.run(feed | nothing, names)
