"""A trial of one way to compute a graph: its answers to the artifact's golden texts or pictures, how long it
takes, and how far it is from another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.images import Images
from ..artifact.manifest import WEIGHT_ONLY, Manifest, Precision
from ..inputs.items import Item, VisionItem
from ..inputs.media import prepared
from . import table
from .feed import Feed
from .table import Choice, Session

GOLDEN = "golden.npz"
TEXTS = 8
"""Of the batch of short texts that is timed."""
LONG_TEXTS, LONG_TOKENS = 4, 64
"""Of the batch of longer ones: golden texts repeated, since many artifacts keep sentences alone. Libraries
that are alike on short texts need not be on those."""
LEAST_RUNS, LEAST_S = 3, 0.1
LOGITS = 16
"""An output of fewer columns holds logits, one of more a vector."""
ALIKE = 0.005
"""Similarities that differ by less have no order, of what is nearly float32."""
PIXELS = 1 << 20
"""Of the largest golden picture that is measured."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Bound:
    """How far answers may be from those of the fp32 graph."""

    cosine: float
    """Least of any text's vector, or of the mean over a text's token vectors."""
    difference: float
    """Largest of a logit, as a share of it beyond 1. Two texts whose logits differ by more keep their
    order."""
    alike: float = ALIKE
    """Similarities that differ by less have no order."""


# Embeddings in bf16 are at 0.99998 for MiniLM. The logits of Qwen3-0.6B's shape, of 653 tokens, move by up to
# 0.041 in OpenVINO and 0.045 in PyTorch, both in bf16.
BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(0.999999, 1e-4),
    "bf16": Bound(0.9999, 0.05),
    "fp16": Bound(0.9999, 0.05),
    "int8": Bound(0.98, 0.1, alike=0.05),
    # Both engines round the activations of such products to int8, each in groups of its own: 0.9997 beside
    # each other (docs/decisions/weight-only.md).
    "int8-weights": Bound(0.999, 0.1, alike=0.02),
    "int4-weights": Bound(0.999, 0.1, alike=0.02),
}


@dataclass(frozen=True, slots=True)
class Result:
    choice: Choice
    seconds: float
    """Of the batches, and of one item alone, together."""
    answers: list[list[NDArray[np.float32]]]
    """One array per output, of each item: [dim] or [rows, dim]."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What all candidates of a role compute."""

    items: Sequence[Item] | Sequence[VisionItem]
    outputs: Sequence[str]
    batched: bool
    """Whether the items are computed as one batch. Pictures are computed one by one."""


def probe(folder: Path, manifest: Manifest, choice: Choice) -> Probe:
    if choice.graph.role == "vision" and manifest.images is not None:
        return Probe(pictures(folder, manifest.images), [choice.graph.outputs[0].name], batched=False)
    return Probe(golden(folder), sorted({head.output for head in manifest.heads.values()}), batched=True)


def run(folder: Path, manifest: Manifest, choice: Choice, probe: Probe, threads: int | None) -> Result:
    session = table.open(folder, manifest, choice, threads=threads, at_once=True)
    try:
        feed = Feed(choice.graph.inputs, pad_id=manifest.text.pad_id)
        batches = [probe.items] if probe.batched else [[item] for item in probe.items]
        answers: list[list[NDArray[np.float32]]] = []
        for batch in batches:
            arrays = session.run(feed.arrays(batch), probe.outputs)
            answers += [
                [array[row, : item.rows] if array.ndim == 3 else array[row] for array in arrays]
                for row, item in enumerate(batch)
            ]
        rising = sorted(probe.items, key=lambda item: item.cost)
        timed = rising[:TEXTS] if probe.batched else rising[-1:]
        seconds = _fastest(session, feed.arrays(timed), probe.outputs, alone=False)
        if longer := _longer(timed, manifest.text.max_tokens):
            seconds += _fastest(session, feed.arrays(longer), probe.outputs, alone=False)
        seconds += _fastest(session, feed.arrays(rising[:1]), probe.outputs, alone=True)
        return Result(choice, seconds, answers)
    finally:
        session.close()


def _longer(items: Sequence[Item | VisionItem], most: int) -> list[Item]:
    """Some of these texts, repeated to LONG_TOKENS or to `most` tokens, the model's own limit. Of pictures
    there are none."""
    width = min(LONG_TOKENS, most)

    def repeated(values: list[int] | None, tokens: int) -> list[int] | None:
        return None if values is None else (values * -(-width // tokens))[:width]

    texts = [item for item in items[-LONG_TEXTS:] if isinstance(item, Item) and item.ids]
    return [
        Item(
            ids=repeated(item.ids, len(item.ids)) or [],
            attention=repeated(item.attention, len(item.ids)),
            type_ids=repeated(item.type_ids, len(item.ids)),
            kinds=repeated(item.kinds, len(item.ids)),
        )
        for item in texts
    ]


def _fastest(session: Session, arrays: table.Arrays, outputs: Sequence[str], *, alone: bool) -> float:
    """Seconds of the fastest of several runs: other work on the machine only slows one down."""
    session.run(arrays, outputs, alone=alone)
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < LEAST_S:
        begun = time.perf_counter()
        session.run(arrays, outputs, alone=alone)
        times.append(time.perf_counter() - begun)
    return min(times)


def compared(
    expected: list[list[NDArray[np.float32]]], answers: list[list[NDArray[np.float32]]], choice: Choice
) -> tuple[bool, str]:
    """Whether a candidate's answers are within the bounds of its precision, and how far they are. A number
    that is not finite is beyond them."""
    stored = choice.graph.stored
    bound = BOUNDS[stored if stored in WEIGHT_ONLY else choice.precision or choice.graph.precision]
    cosines: list[float] = []
    differences: list[float] = []
    for ours, theirs in zip(answers, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if a.shape != b.shape or not np.isfinite(a).all():
                return False, "but its answers are no numbers"
            if a.shape[-1] < LOGITS:
                differences.append(float((np.abs(a - b) / np.maximum(1.0, np.abs(b))).max(initial=0.0)))
            else:
                products, norms = (a * b).sum(-1), np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
                cosines.append(float(np.mean((products + _TINY) / (norms + _TINY))))
    texts = [f"worst cosine {min(cosines):.6f}"] if cosines else []
    texts += [f"largest difference {max(differences):.1e}"] if differences else []
    within = min(cosines, default=1.0) >= bound.cosine and max(differences, default=0.0) <= bound.difference
    if within and not _same_order(expected, answers, bound.alike):
        return False, f"{', '.join(texts)}, but the order of texts is another"
    return within, ", ".join(texts) + ("" if within else ", beyond its bounds")


def _same_order(
    expected: list[list[NDArray[np.float32]]],
    answers: list[list[NDArray[np.float32]]],
    alike: float = ALIKE,
) -> bool:
    """Whether the texts come in the same order by their similarity to each of them, but for those that differ
    by less than `alike`."""
    for place, first in enumerate(expected[0]):
        if first.ndim != 1 or len(first) < LOGITS:
            continue
        theirs, ours = (_similarities(np.stack([row[place] for row in side])) for side in (expected, answers))
        apart = theirs[:, :, None] - theirs[:, None, :]
        if ((ours[:, :, None] - ours[:, None, :])[apart > alike] <= 0).any():
            return False
    return True


def _similarities(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), _TINY)
    return unit @ unit.T


def pictures(folder: Path, images: Images) -> list[VisionItem]:
    """What the vision graph reads of the pictures that the artifact keeps as pixels; none where they cannot
    be read. Those that it keeps as files are left out: they show how files are decoded."""
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as stored:
            arrays = [stored[name] for name in stored.files if name.startswith("pictures ")]
    except (OSError, ValueError):
        return []
    return [
        item
        for pixels in arrays
        if pixels.ndim > 1 and pixels.size <= 3 * PIXELS
        for item in prepared.image(images, pixels).items
    ]


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
