"""What every kind of precision measures with: a graph's answers beside PyTorch's, its outputs on one batch,
and its speed beside that of fp32."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.manifest import Graph, Manifest, Precision
from ...runtime.batching.plan import BatchLimits
from ...runtime.engines import ort
from ...runtime.engines.feed import Feed
from ...runtime.inputs.items import Item
from ...runtime.loader import prepared_for
from ..base.report import Say
from ..graph import onnx_files
from ..proof import evidence, texts
from ..proof.reference import Reference
from ..proof.verify import Runner

PROBES = 24
"""Items of the batch that outputs and speed are measured on."""
# Some hundred short texts beside one of 2048 tokens, padded to one batch, would need a hundred gigabytes.
BATCHES = BatchLimits(max_tokens=1 << 13, launch_tokens=1 << 9)


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
        """The comparisons of `graph` with PyTorch that are beyond the tolerance of int8, one line each.

        Args:
            items: None: all.
            beside: the graphs of other roles; None: the fp32 ones.
        """
        items = self.items if items is None else items
        others = self.manifest.graphs if beside is None else beside
        graphs = (graph, *(other for other in others if other.role != graph.role))
        manifest = dataclasses.replace(self.manifest, graphs=graphs)
        runner = Runner(self.folder, manifest, graph, BATCHES)
        try:
            comparisons = [
                evidence.compared(
                    runner.name,
                    "int8",
                    task,
                    f"{len(items)} texts",
                    runner.answers(task, items),
                    self.reference.answers(task, items),
                )
                for task in manifest.tasks
            ]
        finally:
            runner.close()
        return [evidence.summary(comparison) for comparison in comparisons if not evidence.holds(comparison)]

    def outputs(self, graph: Graph) -> list[NDArray[np.float32]]:
        """All outputs of a text graph on one batch."""
        session = ort.open(self.folder, self.manifest, graph, lanes=1)
        try:
            return session.run(self._batch(), [tensor.name for tensor in graph.outputs])
        finally:
            session.close()

    def speedup(self, graph: Graph) -> float:
        """fp32 seconds over the graph's on the same batch, interleaved, medians of several runs."""
        arrays = self._batch()
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

    def _batch(self) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        return Feed(self.base.inputs, pad_id=self.manifest.text.pad_id).arrays(self.items[:PROBES])


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
