"""What every kind of precision measures with: a graph's answers beside PyTorch's, its outputs on one batch,
and its speed beside that of fp32."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.manifest import Graph, Manifest, Precision
from ...runtime.batching.plan import BatchLimits
from ...runtime.engines import ort
from ...runtime.engines.feed import Feed
from ...runtime.engines.table import Choice
from ...runtime.errors import EngineError
from ...runtime.inputs.items import Item
from ...runtime.loader import prepared_for
from ..base.report import Say
from ..graph import onnx_files
from ..graph.quantisation.quantised import Quantised
from ..proof import texts
from ..proof.reference import Reference
from ..proof.verify import Runner
from . import gate

PROBES = 24
"""Items of the batch that outputs and speed are measured on."""
# Some hundred short texts beside one of 2048 tokens, padded to one batch, would need a hundred gigabytes.
BATCHES = BatchLimits(max_tokens=1 << 13, launch_tokens=1 << 9)


Writer = Callable[[Sequence[str], str | None], tuple[Graph, Quantised]]
"""(products and tables that stay fp32, name of the file; None: that of the graph) -> the int8 graph that was
written, and what was quantised."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The graphs that the artifact keeps, and notes for the report."""

    graphs: tuple[Graph, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trials:
    """An export whose fp32 graphs are written, and what other graphs of it are measured on."""

    folder: Path
    manifest: Manifest
    """It names the fp32 graphs."""
    reference: Reference
    items: Sequence[Item]
    """Texts and prompts with pictures, as `probes` makes them."""
    say: Say

    @property
    def base(self) -> Graph:
        return self.manifest.graph("text", "fp32")

    def drift(
        self, graph: Graph, items: Sequence[Item] | None = None, *, beside: Sequence[Graph] | None = None
    ) -> list[str]:
        """What is beyond the gate of int8 beside PyTorch, one line each, in every library that may run it.

        Args:
            items: None: all.
            beside: the graphs of other roles; None: the fp32 ones.
        """
        items = self.items if items is None else items
        others = self.manifest.graphs if beside is None else beside
        graphs = (graph, *(other for other in others if other.role != graph.role))
        manifest = dataclasses.replace(self.manifest, graphs=graphs)
        failed: list[str] = []
        for way in _ways(graphs):
            try:
                runner = Runner(self.folder, manifest, way, BATCHES)
            except EngineError as error:
                if isinstance(way, Graph):
                    raise
                self.say(f"      not measured in OpenVINO: {error}")
                continue
            try:
                for task in manifest.tasks:
                    answers, expected = runner.answers(task, items), self.reference.answers(task, items)
                    failed += gate.failures(runner.name, task, answers, expected)
            finally:
                runner.close()
            if failed:
                break
        return failed

    def outputs(self, graph: Graph) -> list[NDArray[np.float32]]:
        """All outputs of a text graph on one batch."""
        session = ort.open(self.folder, self.manifest, graph, lanes=1)
        try:
            return session.run(self.batch(), [tensor.name for tensor in graph.outputs])
        finally:
            session.close()

    def speedup(self, graph: Graph) -> float:
        """fp32 seconds over the graph's on the same batch, interleaved, medians of several runs."""
        arrays = self.batch()
        names = [self.manifest.heads[self.manifest.tasks[0]].output]
        sessions = [ort.open(self.folder, self.manifest, form, lanes=1) for form in (self.base, graph)]
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

    def batch(self) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """Inputs of a text graph for the first PROBES items."""
        return Feed(self.base.inputs, pad_id=self.manifest.text.pad_id).arrays(self.items[:PROBES])


def pictures(
    trials: Trials, text: Graph, what: str, attempts: Iterable[tuple[Graph, Quantised]]
) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
    """The vision graph beside a quantised text graph: the first attempt with which prompts with pictures keep
    to the budget, else fp32, and a note. Nothing of a model that reads text only.

    Args:
        what: the precision, for the note.
        attempts: written one after another, and what was quantised in each. The fp32 graph is dropped where
            one is kept.
    """
    if trials.manifest.images is None:
        return (), ()
    base = trials.manifest.graph("vision", "fp32")
    shown = [item for item in trials.items if item.vision]
    failed: list[str] = []
    for graph, quantised in attempts:
        failed = trials.drift(text, shown, beside=(graph,))
        drop(trials.folder, graph if failed else base)
        if not failed:
            return (graph,), (f"{what} of the vision graph: {len(quantised.products)} products quantised",)
    return (base,), (f"the vision graph stays fp32: {failed[0]}",)


def _ways(graphs: Sequence[Graph]) -> tuple[Graph | Choice, ...]:
    """In which libraries the first of the graphs is measured: OpenVINO too, where it is installed and runs
    all of them."""
    text = graphs[0]
    able = all(graph.precision == "fp32" or graph.static_scales for graph in graphs)
    if text.static_scales and able and find_spec("openvino") is not None:
        return text, Choice("openvino", text, precision="int8")
    return (text,)


def described(base: Graph, path: Path, precision: Precision) -> Graph:
    """The manifest's record of a graph that was derived from `base` and written to `path`."""
    return dataclasses.replace(base, file=path.name, precision=precision, external=onnx_files.beside(path))


def drop(folder: Path, graph: Graph) -> None:
    for name in (graph.file, *graph.external):
        (folder / name).unlink()


def probes(folder: Path, manifest: Manifest) -> list[Item]:
    """What drift is measured on: everything that verification will compare."""
    preparation = prepared_for(folder, manifest)
    return [
        *texts.many(manifest, preparation),
        *(item for items in texts.cases(manifest, preparation).values() for item in items),
    ]
