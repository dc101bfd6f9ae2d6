"""int8 whose activations have constant scales, for ONNX Runtime and OpenVINO alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ...runtime.artifact.manifest import Graph
from ..graph.quantisation.quantised import Quantised
from ..graph.rewriting import static_int8_from_onnx
from . import calibration
from .trials import Trials, Writer, described


def writer(trials: Trials, base: Graph) -> Writer:
    """Runs the calibration, and returns what writes the int8 form of `base`."""
    trials.say("      calibrating the scales of activations")
    activations = calibration.calibrated(trials, base)

    def write(keep: Sequence[str], name: str | None) -> tuple[Graph, Quantised]:
        path = trials.folder / f"{name or Path(base.file).stem}.int8.onnx"
        quantised = static_int8_from_onnx(trials.folder / base.file, path, activations, keep=keep)
        return dataclasses.replace(described(base, path, "int8"), static_scales=True), quantised

    return write
