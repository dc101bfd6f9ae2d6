"""Which engine library and precision `engine="auto"` takes on this processor: measured, once per machine.

Each candidate computes the artifact's golden texts, of a vision graph its golden pictures (trial.py). They
are compared with the fp32 graph in ONNX Runtime, which export proved against PyTorch. What is beyond the
bounds of its precision is out, and the fastest of the others is taken (docs/decisions/openvino.md).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from .. import cache_folder, machine
from ..artifact import spellings
from ..artifact.manifest import WEIGHT_ONLY, Graph, GraphRole, Manifest, Precision
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
    which = spellings.precision(which)
    engine = f"{name}:{which}" if which else name
    if name == "auto" and which not in ("", ANY, *get_args(Precision)):
        raise EngineError(
            f"engine {engine!r}: behind auto: expected {ANY} or {', '.join(get_args(Precision))}"
        )
    usual = table.choose(manifest, "auto" if name == "auto" else engine, role)
    if usual.engine is not None or usual.device != "cpu" or not (name == "auto" or engine == "openvino"):
        return usual
    possible = list(_candidates(manifest, usual, name, which))
    key = _key(manifest, possible, engine, threads)
    if len(possible) > 1 and (known := _remembered(manifest, possible, key)) is not None:
        return known
    # Asking what this processor has loads OpenVINO.
    candidates = [choice for choice in possible if choice.precision is None or gains(choice.precision)]
    if len(candidates) < 2:
        if not candidates and which:
            raise EngineError(
                f"engine {engine!r}: nothing here computes this artifact in {which}; export it with "
                f"--precision {which}, or pip install 'poolrt[openvino]' on a processor that has it"
            )
        return candidates[0] if candidates else usual
    index, why = _measured(folder, manifest, candidates, threads)
    taken = candidates[index]
    cache_folder.remember(key, {"artifact": manifest.name, "engine": taken.name, "why": why})
    return _noted(manifest, taken, why)


def _candidates(manifest: Manifest, usual: Choice, name: str, which: str) -> Iterator[Choice]:
    """Ways to compute the artifact on some processor, the reference first, then those most likely to be
    fastest."""
    graphs = {graph.precision: graph for graph in reversed(manifest.graphs) if graph.role == usual.graph.role}
    if which == "int8" and "int8" not in graphs and usual.graph.role == "vision":
        which = ""  # the text graph alone holds in int8
    if (graph := graphs.get("fp32")) is None or (usual.graph.precision != "fp32" and not which):
        if which in ("", ANY, usual.graph.precision):
            yield usual
            if name == "auto" and usual.graph.precision == "int8":
                yield from _openvino_int8(usual.graph, usual)
        return
    # How weights are stored says nothing about the products.
    if which in WEIGHT_ONLY:
        which = "" if which == graph.stored else which
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
                if name == "auto":
                    yield Choice("onnxruntime", graphs["int8"], notes=usual.notes)
                yield from _openvino_int8(graphs["int8"], usual)
        elif installed and not (name == "openvino" and precision == "fp32"):
            yield Choice("openvino", graph, precision=precision, notes=usual.notes)


def _openvino_int8(graph: Graph, usual: Choice) -> Iterator[Choice]:
    if graph.static_scales and find_spec("openvino") is not None:
        yield Choice("openvino", graph, precision="int8", notes=usual.notes)


def gains(precision: Precision) -> bool:
    """Whether OpenVINO computes in a precision here, and is not slower than in float32, as fp16 is on x86.

    Raises EngineError where it is missing."""
    from .openvino import able

    return able(precision) and (precision != "fp16" or machine.is_arm())


def _key(manifest: Manifest, possible: Sequence[Choice], engine: str, threads: int | None) -> str:
    """The name of the record of a choice among these."""
    versions = [machine.version(name) for name in ("poolrt", "onnxruntime", "onnxruntime-gpu", "openvino")]
    digests = [manifest.files[choice.graph.file].sha256 for choice in possible]
    names = [choice.name for choice in possible]
    timed = (trial.TEXTS, trial.LONG_TEXTS, trial.LONG_TOKENS)
    return blobs.key(
        "choice", engine, threads or machine.cpus(), *versions, *digests, *names, trial.BOUNDS, timed
    )


def _remembered(manifest: Manifest, possible: Sequence[Choice], key: str) -> Choice | None:
    record = cache_folder.recall(key) or {}
    name, why = record.get("engine"), record.get("why")
    taken = next((choice for choice in possible if choice.name == name), None)
    return _noted(manifest, taken, why) if taken is not None and isinstance(why, str) else None


def _noted(manifest: Manifest, choice: Choice, why: str) -> Choice:
    log.info("%s: %s", manifest.name, why)
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
    compiled: list[str] = []
    for place, choice in enumerate(candidates[1:], 1):
        if (name := _blob(folder, manifest, choice)) is not None and blobs.find(name) is None:
            compiled.append(name)
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
    for name in compiled:
        if name != _blob(folder, manifest, candidates[index]):
            blobs.remove(name)
    return index, f"{candidates[index].name} is taken: beside {candidates[0].name}, {'; '.join(lines)}"


def _blob(folder: Path, manifest: Manifest, choice: Choice) -> str | None:
    """The name of what a trial compiles and keeps."""
    from . import openvino

    if choice.backend != "openvino":
        return None
    return openvino.blob(folder, manifest, choice.graph, choice.precision)
