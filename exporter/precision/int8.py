"""int8 for processors: with static scales where those hold their gate, else with scales per row.

Where a graph drifts beyond its budget, the products that hurt most go back to fp32. Static scales are
measured in ONNX Runtime, and in OpenVINO where that is installed, because either may run them
(docs/decisions/int8.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...runtime.artifact.manifest import Graph
from ..graph.quantisation.quantised import Quantised
from . import dynamic, static
from .trials import Chosen, Trials, Writer, drop, pictures

# Shares of the products, the most sensitive first, that stay fp32; the next is tried where the one before
# drifts too far.
_KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
# Least speed-up over fp32 for which auto takes int8 and its drift.
_WORTH_IT = 1.2


@dataclass(frozen=True, slots=True)
class _Attempt:
    graph: Graph
    quantised: Quantised
    within: bool
    """Whether it keeps to the budget."""


def chosen(choice: Literal["int8", "auto"], trials: Trials) -> Chosen:
    """Writes the int8 graphs, and removes them or the fp32 ones."""
    folder, base = trials.folder, trials.base
    attempt = _text(trials)
    int8, quantised, within = attempt.graph, attempt.quantised, attempt.within
    # auto does not time an int8 graph that drifts too far to be taken.
    speed = trials.speedup(int8) if within or choice == "int8" else 0.0
    kept = f", {len(quantised.kept)} products kept in fp32" if quantised.kept else ""
    scales = "static scales" if int8.static_scales else "a scale per row, because static scales drift too far"
    note = (
        f"int8: {len(quantised.products)} products and {len(quantised.tables)} tables quantised{kept}; "
        f"{scales}; {speed:.2f} times the speed of fp32 here"
    )
    if choice == "int8" or (within and speed >= _WORTH_IT):
        notes = [note if choice == "int8" else f"auto chose int8. {note}"]
        # The vision graph is calibrated beside the fp32 text graph.
        others, more = pictures(trials, int8, "int8", _vision(trials))
        drop(folder, base)
        return Chosen((int8, *others), (*notes, *more))
    drop(folder, int8)
    reason = (
        f"int8 is {speed:.2f} times as fast here, less than {_WORTH_IT}"
        if within
        else "int8 drifts beyond its budget"
    )
    return Chosen(trials.manifest.graphs, (f"auto chose fp32: {reason}",))


def _text(trials: Trials) -> _Attempt:
    attempt = _within_budget(trials, static.writer(trials, trials.base))
    if not attempt.within:
        drop(trials.folder, attempt.graph)
        trials.say("      static scales drift too far; trying a scale per row")
        attempt = _within_budget(trials, dynamic.writer(trials, trials.base))
    return attempt


def _vision(trials: Trials) -> Iterator[tuple[Graph, Quantised]]:
    """int8 forms of the vision graph, written one after another."""
    base = trials.manifest.graph("vision", "fp32")
    for kind in (static, dynamic):
        yield kind.writer(trials, base)((), None)


def _within_budget(trials: Trials, write: Writer) -> _Attempt:
    """The fastest int8 graph that keeps to the budget; else the most careful one tried."""
    order: list[str] = []
    int8, quantised = trials.base, Quantised((), (), ())
    for share in _KEPT_SHARES:
        if share and not order:
            order = _by_sensitivity(trials, write, quantised)
        int8, quantised = write(order[: round(share * len(order))], None)
        failed = trials.drift(int8)
        if not failed:
            return _Attempt(int8, quantised, within=True)
        trials.say(f"      int8 with {len(quantised.kept)} products in fp32 drifts too far: {failed[0]}")
    return _Attempt(int8, quantised, within=False)


def _by_sensitivity(trials: Trials, write: Writer, quantised: Quantised) -> list[str]:
    """Products by the error that a product causes when it alone is int8, the largest first."""
    trials.say(f"      measuring which of {len(quantised.products)} products int8 hurts most")
    exact = trials.outputs(trials.base)
    errors: dict[str, float] = {}
    for product in quantised.products:
        others = [name for name in (*quantised.products, *quantised.tables) if name != product]
        probe, _ = write(others, "probe")
        errors[product] = max(
            float(np.abs(output - expected).mean() / (np.abs(expected).mean() + 1e-12))
            for output, expected in zip(trials.outputs(probe), exact, strict=True)
        )
        drop(trials.folder, probe)
    return sorted(errors, key=lambda name: -errors[name])
