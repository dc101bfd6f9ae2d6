"""Writes the graph of the precision that was asked for.

`fp32` is the graph as exported. `int8` is for processors, `fp16` and `bf16` are for GPUs. `int8-weights` and
`int4-weights` store smaller weights and compute in float32, for processors too. Beside a bf16 graph stands a
form of it that computes in float32, as ONNX Runtime has no bf16 on processors. `auto` takes int8 if that
keeps to its drift budget and is faster on this machine, else fp32. A note says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ...runtime.artifact import spellings
from ...runtime.artifact.manifest import Manifest
from ...runtime.errors import InputError
from ...runtime.inputs.items import Item
from .. import engine
from ..base.report import Say
from ..proof.reference import Reference
from . import int8, mixed, weight_only
from .trials import Chosen, Trials

Choice = Literal["fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "auto"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
STREAMED: tuple[Choice, ...] = ("fp32", "fp16", "bf16", "int8-weights", "int4-weights")
"""What a model that is too large for memory can be written in."""
MEASURED: tuple[Choice, ...] = ("int8", "int8-weights", "int4-weights", "auto")
"""What is chosen by running graphs on `trials.probes`."""


def check(precision: str, targets: Sequence[engine.Target]) -> Choice:
    """Returns the precision that `precision` names. Raises InputError if it does not exist, or the targets
    cannot compile it."""
    precision = spellings.precision(precision)
    if precision not in CHOICES:
        raise InputError(f"precision {precision!r}: expected one of {', '.join(CHOICES)}", field="precision")
    compiled = [target for target in targets if target.compiled]
    if precision in MEASURED and compiled:
        raise InputError(
            f"precision {precision} is for processors, target {compiled[0]} compiles fp32, fp16 or bf16; "
            "export twice, with two --name",
            field="precision",
        )
    return precision  # pyright: ignore[reportReturnType]


def chosen(
    choice: Choice, folder: Path, manifest: Manifest, reference: Reference, items: Sequence[Item], say: Say
) -> Chosen:
    """Writes the graph that `choice` means beside the fp32 one, which `manifest` names, and removes from
    `folder` the one that is not needed."""
    if choice == "fp32":
        return Chosen(manifest.graphs, ())
    if choice in ("fp16", "bf16"):
        return mixed.chosen(choice, folder, manifest)
    trials = Trials(folder, manifest, reference, items, say)
    if choice in ("int8-weights", "int4-weights"):
        return weight_only.chosen(choice, trials)
    return int8.chosen(choice, trials)
