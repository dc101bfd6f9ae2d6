"""Runs the texts of an export through the fp32 graph, and keeps samples of every activation that products
read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.manifest import Graph, Profile
from ...runtime.batching.plan import BatchLimits
from ...runtime.engines.table import Arrays, Session
from ..graph.quantisation import activations
from ..graph.quantisation.activations import Activation, Samples
from ..graph.rewriting import observed_from_onnx
from ..proof.verify import Runner
from . import calibration_texts
from .trials import Trials, described, drop

Floats = NDArray[np.float32]

_BATCHES = BatchLimits(max_tokens=1 << 11, launch_tokens=1 << 9)
# A graph returns so many bytes of activations in one run. What is more is computed in another run.
_MOST_BYTES = 256 << 20
# A patch of a picture has at least 8 x 8 pixels in 3 colours.
_LEAST_PATCH = 192
_ROWS = 12
"""Kept of each activation in one run."""
_MASKS = ("attention_mask", "patch_mask")


def calibrated(trials: Trials, base: Graph) -> dict[str, Activation]:
    """How the activations of an fp32 graph are quantised, by name. Those that no text reached, or that were
    not finite, are left out."""
    path = trials.folder / "calibration.onnx"
    weights = observed_from_onnx(trials.folder / base.file, path)
    graph = described(base, path, "fp32")
    try:
        samples = _seen(trials, base, graph, {name: _width(of) for name, of in weights.items()})
    finally:
        drop(trials.folder, graph)
    return {name: activations.fit(seen, list(weights[name].values())) for name, seen in samples.items()}


def _width(products: Mapping[str, Floats]) -> int:
    return next(iter(products.values())).shape[0]


def _seen(trials: Trials, base: Graph, graph: Graph, widths: Mapping[str, int]) -> dict[str, Samples]:
    graphs = tuple(graph if other is base else other for other in trials.manifest.graphs)
    manifest = dataclasses.replace(trials.manifest, graphs=graphs)
    listeners: list[_Listener] = []

    def through(opened: Graph, session: Session) -> Session:
        if opened is not graph:
            return session
        listeners.append(_Listener(session, widths))
        return listeners[0]

    runner = Runner(trials.folder, manifest, manifest.graph("text", "fp32"), _BATCHES, through=through)
    try:
        items = calibration_texts.items(trials.folder, trials.manifest)
        if base.role == "vision":
            items = [item for item in items if item.vision]
        if items:
            runner.answers(trials.manifest.tasks[0], items)
    finally:
        runner.close()
    return {
        name: seen
        for name, seen in listeners[0].samples.items()
        if np.isfinite(seen.low).all() and np.isfinite(seen.high).all()
    }


class _Listener:
    """A session that keeps samples of activations beside what is computed. See `table.Session`."""

    def __init__(self, session: Session, widths: Mapping[str, int]) -> None:
        self._session, self._widths = session, widths
        self._rng = np.random.default_rng(0)
        self.samples: dict[str, Samples] = {}

    @property
    def lanes(self) -> int:
        return 1

    @property
    def backend(self) -> str:
        return self._session.backend

    @property
    def profiles(self) -> Sequence[Profile]:
        return self._session.profiles

    def run(self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False) -> list[Floats]:
        mask = next((inputs[name] for name in _MASKS if name in inputs), None)
        answers: list[Floats] = []
        for names in self._slices(inputs):
            wanted = [] if answers else list(outputs)
            values = self._session.run(inputs, [*names, *wanted], alone=alone)
            answers = answers or values[len(names) :]
            for name, activation in zip(names, values, strict=False):
                rows = _rows(activation, mask)
                if len(rows):
                    seen = self.samples.get(name)
                    self.samples[name] = activations.add(seen, rows, self._rng, _ROWS)
        return answers or self._session.run(inputs, outputs, alone=alone)

    def close(self) -> None:
        self._session.close()

    def _slices(self, inputs: Arrays) -> Iterator[list[str]]:
        """Names whose activations fit into memory together."""
        row_count = max(
            array.size // (_LEAST_PATCH if array.dtype == np.float32 else 1) for array in inputs.values()
        )
        names: list[str] = []
        size = 0
        for name, width in self._widths.items():
            needed = 4 * row_count * width
            if names and size + needed > _MOST_BYTES:
                yield names
                names, size = [], 0
            names.append(name)
            size += needed
        if names:
            yield names


def _rows(values: NDArray[Any], mask: NDArray[Any] | None) -> Floats:
    """[rows, width], without padding."""
    if mask is not None and values.shape[:-1] == mask.shape:
        return values[mask > 0]
    return values.reshape(-1, values.shape[-1])
