"""int8 whose activations are quantised per row while the graph runs, for ONNX Runtime.

Where the drift is beyond its budget, the products that hurt most go back to fp32 (docs/decisions/int8.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ...runtime.artifact.manifest import Graph
from ..graph.quantisation.quantised import Quantised
from ..graph.rewriting import int8_from_onnx
from .trials import Chosen, Trials, described, drop

# Shares of the products, the most sensitive first, that stay fp32; the next is tried where the one before
# drifts too far.
_KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
# Least speed-up over fp32 for which auto takes int8 and its drift.
_WORTH_IT = 1.2


def chosen(choice: Literal["int8", "auto"], trials: Trials) -> Chosen:
    """Writes the int8 graphs, and removes them or the fp32 ones."""
    folder, base = trials.folder, trials.base
    int8, quantised, within = _within_budget(trials)
    # auto does not time an int8 graph that drifts too far to be taken.
    speed = trials.speedup(int8) if within or choice == "int8" else 0.0
    kept = f", {len(quantised.kept)} products kept in fp32" if quantised.kept else ""
    note = (
        f"int8: {len(quantised.products)} products and {len(quantised.tables)} tables quantised{kept}; "
        f"{speed:.2f} times the speed of fp32 here"
    )
    if choice == "int8" or (within and speed >= _WORTH_IT):
        drop(folder, base)
        notes = [note if choice == "int8" else f"auto chose int8. {note}"]
        others, more = _pictures(trials, int8)
        return Chosen((int8, *others), (*notes, *more))
    drop(folder, int8)
    reason = (
        f"int8 is {speed:.2f} times as fast here, less than {_WORTH_IT}"
        if within
        else "int8 drifts beyond its budget"
    )
    return Chosen(trials.manifest.graphs, (f"auto chose fp32: {reason}",))


def _pictures(trials: Trials, text: Graph) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
    """The vision graph beside an int8 text graph: int8 too where prompts with pictures keep to the budget,
    else fp32; and a note. Nothing of a model that reads text only."""
    if trials.manifest.images is None:
        return (), ()
    base = trials.manifest.graph("vision", "fp32")
    int8, quantised = _quantised(trials.folder, base, keep=())
    failed = trials.drift(text, [item for item in trials.items if item.vision], beside=(int8,))
    drop(trials.folder, int8 if failed else base)
    if failed:
        return (base,), (f"the vision graph stays fp32: {failed[0]}",)
    return (int8,), (f"int8 of the vision graph: {len(quantised.products)} products quantised",)


def _within_budget(trials: Trials) -> tuple[Graph, Quantised, bool]:
    """The fastest int8 graph that keeps to the budget; else the most careful one tried, and False."""
    order: list[str] = []
    int8, quantised = trials.base, Quantised((), (), ())
    for share in _KEPT_SHARES:
        if share and not order:
            order = _by_sensitivity(trials, quantised)
        int8, quantised = _quantised(trials.folder, trials.base, keep=order[: round(share * len(order))])
        failed = trials.drift(int8)
        if not failed:
            return int8, quantised, True
        trials.say(f"      int8 with {len(quantised.kept)} products in fp32 drifts too far: {failed[0]}")
    return int8, quantised, False


def _by_sensitivity(trials: Trials, quantised: Quantised) -> list[str]:
    """Products by the error that a product causes when it alone is int8, the largest first."""
    trials.say(f"      measuring which of {len(quantised.products)} products int8 hurts most")
    exact = trials.outputs(trials.base)
    errors: dict[str, float] = {}
    for product in quantised.products:
        others = [name for name in (*quantised.products, *quantised.tables) if name != product]
        probe, _ = _quantised(trials.folder, trials.base, keep=others, name="probe")
        errors[product] = max(
            float(np.abs(output - expected).mean() / (np.abs(expected).mean() + 1e-12))
            for output, expected in zip(trials.outputs(probe), exact, strict=True)
        )
        drop(trials.folder, probe)
    return sorted(errors, key=lambda name: -errors[name])


def _quantised(
    folder: Path, base: Graph, *, keep: Sequence[str], name: str | None = None
) -> tuple[Graph, Quantised]:
    """Writes the int8 form of `base`, in which the products and tables `keep` stay fp32."""
    path = folder / f"{name or Path(base.file).stem}.int8.onnx"
    quantised = int8_from_onnx(folder / base.file, path, keep=keep)
    return described(base, path, "int8"), quantised
