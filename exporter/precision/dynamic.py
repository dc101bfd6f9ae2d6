"""int8 whose activations are quantised per row while the graph runs, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...runtime.artifact.manifest import Graph
from ..graph.quantisation.quantised import Quantised
from ..graph.rewriting import int8_from_onnx
from .trials import Trials, Writer, described


def writer(trials: Trials, base: Graph) -> Writer:
    """What writes the int8 form of `base`."""

    def write(keep: Sequence[str], name: str | None) -> tuple[Graph, Quantised]:
        path = trials.folder / f"{name or Path(base.file).stem}.int8.onnx"
        quantised = int8_from_onnx(trials.folder / base.file, path, keep=keep)
        return described(base, path, "int8"), quantised

    return write
