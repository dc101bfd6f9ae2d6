"""Which engine library and precision `engine="auto"` takes on this processor: measured, once per machine.

Each candidate computes the artifact's golden texts. The fp32 graph in ONNX Runtime is what they are compared
with; export proved that graph against PyTorch. A candidate beyond the bounds of its precision is out, and of
the others the fastest is taken (docs/decisions/openvino.md).
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..artifact.manifest import Manifest, Precision
from ..errors import EngineError
from ..inputs.items import Item
from . import blobs, table
from .feed import Feed
from .table import Choice, Session

log = logging.getLogger("poolrt.engines")

VARIABLE = "POOLRT_ENGINE"
"""Environment variable: what `auto` stands for."""
GOLDEN = "golden.npz"
ANY = "any"
"""`auto:any` admits int8 too, where it holds its bounds."""
GAIN = 1.1
"""How much faster than ONNX Runtime another candidate must be."""
ENOUGH = 1.5
"""A candidate that is so much faster ends the search, because opening the next takes seconds."""
TEXTS = 8
"""Of the batch that is timed."""
LEAST_RUNS, LEAST_S = 3, 0.1
_TINY = 1e-12
_EXACT: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
_ALL: tuple[Precision, ...] = ("bf16", "fp16", "int8", "fp32")
"""Those that are most likely fastest come first."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far answers may be from those of the fp32 graph."""

    cosine: float
    """Least of any text's vector, or of the mean over a text's token vectors."""
    difference: float
    """Largest of a logit, as a share of it beyond 1. Two texts whose logits differ by more keep their
    order."""


# Embeddings in bf16 are at 0.99998 for MiniLM. A score that moves by 0.02 is what bf16 in PyTorch does too.
BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(0.999999, 1e-4),
    "bf16": Bound(0.9999, 0.02),
    "fp16": Bound(0.9999, 0.02),
    "int8": Bound(0.98, 0.1),
}


@dataclass(frozen=True, slots=True)
class _Result:
    choice: Choice
    seconds: float
    """Of the batch, and of one text alone, together."""
    outputs: tuple[NDArray[np.float32], ...]


def stated(engine: str) -> str:
    """What a name of an engine stands for on this machine."""
    return os.environ.get(VARIABLE) or engine if engine == "auto" else engine


def choose(folder: Path, manifest: Manifest, engine: str = "auto", *, threads: int | None = None) -> Choice:
    """`table.choose` for the text graph, but that of several ways to compute an artifact's fp32 graph on this
    processor the fastest is taken. Raises EngineError.

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
    usual = table.choose(manifest, "auto" if name == "auto" else engine)
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
    graphs = {graph.precision: graph for graph in reversed(manifest.graphs) if graph.role == "text"}
    if (graph := graphs.get("fp32")) is None or (usual.graph.precision != "fp32" and not which):
        if which in ("", ANY, usual.graph.precision):
            yield usual
        return
    wanted: dict[str, tuple[Precision, ...]] = {"": _EXACT, ANY: _ALL}
    precisions = wanted.get(which, tuple(precision for precision in _ALL if precision == which))
    installed = manifest.images is None and find_spec("openvino") is not None
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
        elif installed and _able(precision) and not (name == "openvino" and precision == "fp32"):
            yield Choice("openvino", graph, precision=precision, notes=usual.notes)


def _able(precision: Precision) -> bool:
    """Whether this processor gains from a precision. On x86, fp16 is slower than float32."""
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
    items = golden(folder)
    if not items:
        return 0, f"{candidates[0].name}: the artifact has no golden texts to measure others with"
    outputs = sorted({head.output for head in manifest.heads.values()})
    first = _run(folder, manifest, candidates[0], items, outputs, threads)
    best, index, lines = first, 0, list[str]()
    for place, choice in enumerate(candidates[1:], 1):
        try:
            result = _run(folder, manifest, choice, items, outputs, threads)
        except EngineError as error:
            lines.append(f"{choice.name} fails ({error})")
            continue
        cosine, difference = _distance(first.outputs, result.outputs, items)
        gain = first.seconds / result.seconds
        bound = BOUNDS[choice.precision or choice.graph.precision]
        measured = f"{choice.name} is {gain:.2f} times as fast"
        measured += "" if cosine is None else f", worst cosine {cosine:.6f}"
        measured += "" if difference is None else f", largest difference {difference:.1e}"
        within = (cosine is None or cosine >= bound.cosine) and (
            difference is None or difference <= bound.difference
        )
        lines.append(measured if within else f"{measured}, beyond its bounds")
        if within and result.seconds < best.seconds and gain >= GAIN:
            best, index = result, place
            if gain >= ENOUGH:
                break
    return index, f"{candidates[index].name} is taken: beside {candidates[0].name}, {'; '.join(lines)}"


def _run(
    folder: Path,
    manifest: Manifest,
    choice: Choice,
    items: Sequence[Item],
    outputs: Sequence[str],
    threads: int | None,
) -> _Result:
    session = table.open(folder, manifest, choice, threads=threads)
    try:
        feed = Feed(choice.graph.inputs, pad_id=manifest.text.pad_id)
        answers = tuple(session.run(feed.arrays(items), outputs))
        together = feed.arrays(sorted(items, key=lambda item: len(item.ids))[:TEXTS])
        alone = feed.arrays(items[:1])
        seconds = _fastest(session, together, outputs, alone=False)
        return _Result(choice, seconds + _fastest(session, alone, outputs, alone=True), answers)
    finally:
        session.close()


def _fastest(session: Session, arrays: table.Arrays, outputs: Sequence[str], *, alone: bool) -> float:
    """Seconds of the fastest of several runs: other work on the machine only slows one down."""
    session.run(arrays, outputs, alone=alone)
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < LEAST_S:
        begun = time.perf_counter()
        session.run(arrays, outputs, alone=alone)
        times.append(time.perf_counter() - begun)
    return min(times)


def _distance(
    expected: Sequence[NDArray[np.float32]], outputs: Sequence[NDArray[np.float32]], items: Sequence[Item]
) -> tuple[float | None, float | None]:
    """The worst cosine of outputs that are vectors, and the largest difference of those that are logits; None
    where there is none. A number that is not finite is a cosine of -1 or an infinite difference."""
    cosines: list[float] = []
    differences: list[float] = []
    for ours, theirs in zip(outputs, expected, strict=True):
        for row, item in enumerate(items):
            a, b = (side[row].astype(np.float64) for side in (ours, theirs))
            if a.ndim == 2:
                a, b = a[: len(item.ids)], b[: len(item.ids)]
            if a.shape != b.shape or not np.isfinite(a).all():
                return -1.0, float("inf")
            if a.shape[-1] < LOGITS:
                differences.append(float((np.abs(a - b) / np.maximum(1.0, np.abs(b))).max(initial=0.0)))
            else:
                norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
                cosines.append(float(np.mean(((a * b).sum(-1) + _TINY) / (norms + _TINY))))
    return min(cosines, default=None), max(differences, default=None)


LOGITS = 16
"""An output of fewer columns holds logits, one of more a vector."""


def golden(folder: Path) -> list[Item]:
    """The texts that the artifact keeps as token ids; none where they cannot be read."""
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {
                name: stored[name] for name in ("lengths", "input_ids", "attention_mask")
            }
            others = {
                name: stored[name] if name in stored.files else np.zeros_like(arrays["input_ids"])
                for name in ("token_type_ids", "token_kinds")
            }
    except (OSError, ValueError, KeyError):
        return []
    ends = np.cumsum(arrays["lengths"])[:-1]
    columns = [
        np.split(column, ends) for column in (arrays["input_ids"], arrays["attention_mask"], *others.values())
    ]
    return [
        Item(ids=ids.tolist(), attention=mask.tolist(), type_ids=types.tolist(), kinds=kinds.tolist())
        for ids, mask, types, kinds in zip(*columns, strict=True)
    ]
