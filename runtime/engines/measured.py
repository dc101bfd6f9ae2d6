"""Which engine library and precision `engine="auto"` takes on this processor: measured, once per machine.

Each candidate computes the artifact's golden texts, of a vision graph its golden pictures (trial.py). They
are compared with the fp32 graph in ONNX Runtime, which export proved against PyTorch. What is beyond the
bounds of its precision is out, and the fastest of the others is taken (docs/decisions/openvino.md).
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from .. import machine
from ..artifact.manifest import GraphRole, Manifest, Precision
from ..errors import EngineError
from . import blobs, table, trial
from .table import Choice

log = logging.getLogger("poolrt.engines")

VARIABLE = "POOLRT_ENGINE"
"""Environment variable: what `auto` stands for."""
ANY = "any"
"""`auto:any` admits int8 too, where it holds its bounds."""
GAIN = 1.1
"""How much faster than ONNX Runtime another candidate must be."""
ENOUGH = 1.5
"""A candidate that is so much faster ends the search, because opening the next takes seconds."""
_EXACT: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
_ALL: tuple[Precision, ...] = ("bf16", "fp16", "int8", "fp32")
"""Those that are most likely fastest come first."""


def stated(engine: str) -> str:
    """What a name of an engine stands for on this machine."""
    return os.environ.get(VARIABLE) or engine if engine == "auto" else engine


def choose(
    folder: Path,
    manifest: Manifest,
    engine: str = "auto",
    role: GraphRole = "text",
    *,
    threads: int | None = None,
) -> Choice:
    """`table.choose`, but that of several ways to compute a fp32 graph on this processor the fastest is
    taken. Raises EngineError.

    Args:
        engine: as for `table.choose`. `auto` and `openvino` alone are measured; `auto:PRECISION` admits one
            precision, and `auto:any` int8 too.
        threads: of the session that will be opened.
    """
    name, _, which = engine.partition(":")
    if name == "auto" and which not in ("", ANY, *get_args(Precision)):
        raise EngineError(
            f"engine {engine!r}: behind auto: expected {ANY} or {', '.join(get_args(Precision))}"
        )
    usual = table.choose(manifest, "auto" if name == "auto" else engine, role)
    if usual.engine is not None or usual.device != "cpu" or not (name == "auto" or engine == "openvino"):
        return usual
    candidates = list(_candidates(manifest, usual, name, which))
    if len(candidates) < 2:
        if not candidates and which:
            raise EngineError(
                f"engine {engine!r}: nothing here computes this artifact in {which}; export it with "
                f"--precision {which}, or pip install 'poolrt[openvino]' on a processor that has it"
            )
        return candidates[0] if candidates else usual
    return _remembered(folder, manifest, candidates, engine, threads)


def _candidates(manifest: Manifest, usual: Choice, name: str, which: str) -> Iterator[Choice]:
    """Ways to compute the artifact here, the reference first, then those most likely to be fastest."""
    graphs = {graph.precision: graph for graph in reversed(manifest.graphs) if graph.role == usual.graph.role}
    if (graph := graphs.get("fp32")) is None or (usual.graph.precision != "fp32" and not which):
        if which in ("", ANY, usual.graph.precision):
            yield usual
        return
    wanted: dict[str, tuple[Precision, ...]] = {"": _EXACT, ANY: _ALL}
    precisions = wanted.get(which, tuple(precision for precision in _ALL if precision == which))
    installed = find_spec("openvino") is not None
    # The reference is the fp32 graph, by ONNX Runtime if it may take part.
    if "fp32" in precisions:
        reference = (
            Choice("onnxruntime", graph) if name == "auto" else Choice("openvino", graph, precision="fp32")
        )
        yield reference._replace(notes=usual.notes)
    for precision in precisions:
        if precision == "int8":
            if "int8" in graphs:
                yield Choice("onnxruntime", graphs["int8"], notes=usual.notes)
        elif installed and gains(precision) and not (name == "openvino" and precision == "fp32"):
            yield Choice("openvino", graph, precision=precision, notes=usual.notes)


def gains(precision: Precision) -> bool:
    """Whether OpenVINO computes in a precision here, and is not slower than in float32, as fp16 is on x86.

    Raises EngineError where it is missing."""
    from .openvino import able

    return able(precision) and (precision != "fp16" or platform.machine() in ("aarch64", "arm64"))


def _remembered(
    folder: Path, manifest: Manifest, candidates: Sequence[Choice], engine: str, threads: int | None
) -> Choice:
    versions = [machine.version(name) for name in ("poolrt", "onnxruntime", "onnxruntime-gpu", "openvino")]
    digests = [manifest.files[choice.graph.file].sha256 for choice in candidates]
    names = [choice.name for choice in candidates]
    key = blobs.key("choice", engine, threads or machine.cpus(), *versions, *digests, *names)
    record = blobs.recall(key) or {}
    index, why = record.get("index"), record.get("why")
    if not isinstance(index, int) or not 0 <= index < len(candidates) or not isinstance(why, str):
        index, why = _measured(folder, manifest, candidates, threads)
        blobs.remember(key, {"artifact": manifest.name, "engine": names[index], "index": index, "why": why})
    log.info("%s: %s", manifest.name, why)
    choice = candidates[index]
    return choice._replace(notes=(*choice.notes, why))


def _measured(
    folder: Path, manifest: Manifest, candidates: Sequence[Choice], threads: int | None
) -> tuple[int, str]:
    """Index of the fastest candidate within its bounds, and a sentence that says why."""
    probe = trial.probe(folder, manifest, candidates[0])
    if not probe.items:
        return 0, f"{candidates[0].name} is taken: the artifact has nothing to measure others with"
    first = trial.run(folder, manifest, candidates[0], probe, threads)
    best, index, lines = first, 0, list[str]()
    for place, choice in enumerate(candidates[1:], 1):
        try:
            result = trial.run(folder, manifest, choice, probe, threads)
        except EngineError as error:
            lines.append(f"{choice.name} fails ({error})")
            continue
        gain = first.seconds / result.seconds
        within, measured = trial.compared(first.answers, result.answers, choice)
        lines.append(f"{choice.name} is {gain:.2f} times as fast, {measured}")
        if within and result.seconds < best.seconds and gain >= GAIN:
            best, index = result, place
            if gain >= ENOUGH:
                break
    return index, f"{candidates[index].name} is taken: beside {candidates[0].name}, {'; '.join(lines)}"
