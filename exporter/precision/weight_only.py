"""Weights of 8 or 4 bits in groups, activations as they are: for decoders on processors.

The range of a 4-bit group is chosen by what its inputs are on the shipped texts. Where the drift is beyond
its budget, the products with the largest errors get 8 bits, or with 8 bits stay fp32
(docs/decisions/weight-only.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.manifest import Graph
from ...runtime.engines import ort
from ..graph import onnx_files
from ..graph.quantisation import weight_only
from ..graph.quantisation.groups import Bits
from ..graph.quantisation.quantised import Quantised
from ..graph.quantisation.weight_only import Options, WeightOnly
from ..graph.rewriting import observing_from_onnx, weights_from_onnx
from .trials import Chosen, Trials, drop, pictures

if TYPE_CHECKING:
    import onnx_ir

Choice = Literal["int8-weights", "int4-weights"]
BITS: dict[Choice, Bits] = {"int8-weights": 8, "int4-weights": 4}
# Shares of the products, those with the largest errors first, that get 8 bits instead of 4, or stay fp32
# instead of 8; the next is tried where the one before drifts too far.
_SHARES = (0.0, 0.1, 0.25, 0.5)

Importance = Mapping[str, NDArray[np.float32]]


def chosen(choice: Choice, trials: Trials) -> Chosen:
    """Writes the graphs with integer weights, and removes the fp32 ones. The closest of those that were tried
    is kept where none holds the budget; verification then refuses it."""
    base = trials.base
    importance = _importance(trials, base)
    errors: dict[str, float] = {}
    graph, done = base, None
    for share in _SHARES:
        order = sorted(errors, key=lambda name: -errors[name])
        graph, done = _written(trials.folder, base, choice, order[: round(share * len(order))], importance)
        errors = errors or done.errors
        failed = trials.drift(graph)
        if not failed:
            break
        trials.say(f"      {choice} with {share:.0%} of the products finer drifts too far: {failed[0]}")
    assert done is not None
    note = _note(choice, done, trials, graph)
    drop(trials.folder, base)
    others, more = pictures(trials, graph, choice, _vision(choice, trials))
    return Chosen((graph, *others), (note, *more))


def quantised_in_place(
    models: Sequence[onnx_ir.Model], graphs: Sequence[Graph], choice: Choice
) -> tuple[Graph, ...]:
    """Gives the graphs of a large model (exporter/graph/streaming.py) integer weights, which are computed
    while they are written; returns the graphs' new records. No text is run before, so that all inputs count
    alike, and all products have the same bits."""
    for model in models:
        weight_only.quantise(model, Options(BITS[choice]))
    return tuple(
        dataclasses.replace(graph, file=f"{Path(graph.file).stem}.{choice}.onnx", weights=choice)
        for graph in graphs
    )


def _vision(choice: Choice, trials: Trials) -> Iterator[tuple[Graph, Quantised]]:
    graph, done = _written(trials.folder, trials.manifest.graph("vision", "fp32"), choice, (), {})
    yield graph, done.quantised


def _written(
    folder: Path, base: Graph, choice: Choice, finer: Collection[str], importance: Importance
) -> tuple[Graph, WeightOnly]:
    """Writes a graph whose products `finer` have 8 bits instead of 4, or are fp32 instead of 8 bits."""
    path = folder / f"{Path(base.file).stem}.{choice}.onnx"
    bits = BITS[choice]
    keep, eight = (finer, ()) if bits == 8 else ((), finer)
    done = weights_from_onnx(folder / base.file, path, Options(bits, keep, eight, importance))
    return dataclasses.replace(base, file=path.name, weights=choice, external=onnx_files.beside(path)), done


def _importance(trials: Trials, base: Graph) -> Importance:
    """The mean square of every input of every product, on the batch that is measured."""
    path = trials.folder / "observed.onnx"
    outputs = observing_from_onnx(trials.folder / base.file, path)
    names = sorted(set(outputs.values()))
    session = ort.open(trials.folder, trials.manifest, dataclasses.replace(base, file=path.name), lanes=1)
    try:
        sums = dict(zip(names, session.run(trials.batch(), names), strict=True))
    finally:
        session.close()
        path.unlink()
    return {product: sums[name] for product, name in outputs.items()}


def _note(choice: Choice, done: WeightOnly, trials: Trials, graph: Graph) -> str:
    stored, before = (
        sum((trials.folder / name).stat().st_size for name in (form.file, *form.external)) / 1e6
        for form in (graph, trials.base)
    )
    quantised = done.quantised
    worst = max(done.errors.values(), default=0.0)
    return (
        f"{choice}: {len(quantised.products)} products and {len(quantised.tables)} tables quantised, "
        f"{len(quantised.kept)} products kept in fp32, {stored:.0f} MB instead of {before:.0f}; "
        f"largest error of a product {worst:.1%}"
    )
