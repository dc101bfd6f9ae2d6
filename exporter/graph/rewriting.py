"""Rewritten forms of a graph that was exported: mixed precision, the form of bf16 for processors, int8, and
the padded form for engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import onnx_files
from .passes import mixed, order
from .passes.signature import LowPrecision, PassOptions
from .quantisation import dynamic, static, weight_only
from .quantisation.activations import Activation
from .quantisation.quantised import Quantised
from .quantisation.weight_only import Options, WeightOnly

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

T = TypeVar("T")


def lower(model: ir.Model, precision: LowPrecision) -> int:
    """Gives an fp32 graph its mixed form in place, and returns how many products compute in low precision.

    Weights that are read from files only when needed (streaming.py) stay so.
    """
    return order.rewrite(model, "mixed", PassOptions(low=precision))[mixed].changes


def mixed_from_onnx(source: Path, target: Path, precision: LowPrecision) -> int:
    """Writes the mixed form of an fp32 graph; returns how many products compute in low precision."""
    import onnx_ir as ir

    model = ir.load(source)
    products = lower(model, precision)
    onnx_files.save(model, target)
    return products


def widen(model: ir.Model, target: Path, *, longest: int = 0) -> None:
    """Writes the processors' form of a bf16 graph whose weights were written, beside them. `model` takes that
    form. `longest`: the most tokens of a text; 0: not known."""
    import onnx_ir as ir

    order.rewrite(model, "wide", PassOptions(longest=longest))
    ir.save(model, target)


def int8_from_onnx(source: Path, target: Path, *, keep: Collection[str] = ()) -> Quantised:
    """Writes the int8 form of an fp32 graph, whose activations are quantised per row while it runs.

    Args:
        keep: names of products and tables, as in `Quantised`, that stay fp32.
    """
    return _quantised(source, target, lambda model: dynamic.quantise(model, keep))


def observed_from_onnx(source: Path, target: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Writes an fp32 graph whose outputs are also the activations that products read.

    Returns the name of each -> the products that read it, with their weights [width, columns].
    """

    def change(model: ir.Model) -> dict[str, dict[str, NDArray[np.float32]]]:
        readers = static.readers(model)
        static.observe(model)
        return readers

    return _quantised(source, target, change)


def static_int8_from_onnx(
    source: Path, target: Path, activations: Mapping[str, Activation], *, keep: Collection[str] = ()
) -> Quantised:
    """Writes the int8 form of an fp32 graph whose activations have constant scales.

    Args:
        activations: by the names of `observed_from_onnx`. Products that read others stay fp32.
        keep: names of products and tables, as in `Quantised`, that stay fp32.
    """
    return _quantised(source, target, lambda model: static.quantise(model, activations, keep))


def weights_from_onnx(source: Path, target: Path, options: Options) -> WeightOnly:
    """Writes the form of an fp32 graph whose weights are integers of 8 or 4 bits."""
    return _quantised(source, target, lambda model: weight_only.quantise(model, options))


def _quantised(source: Path, target: Path, change: Callable[[ir.Model], T]) -> T:
    """Writes what `change` makes of a graph in place; returns what it returns."""
    import onnx_ir as ir

    model = ir.load(source)
    order.rewrite(model, "quantised")
    done = change(model)
    onnx_files.save(model, target)
    return done


def observing_from_onnx(source: Path, target: Path) -> dict[str, str]:
    """Writes an fp32 graph, beside it and with its weights where they are, that also returns what products
    read; returns product -> output (quantisation/weight_only.py)."""
    import onnx_ir as ir

    model = ir.load(source)
    outputs = weight_only.observed(model)
    ir.save(model, target)
    return outputs


def padded_from_onnx(source: Path, target: Path, *, prefixes: bool = False) -> None:
    """Writes the form of a graph that engines compile, without packing. `prefixes`: it still computes texts
    behind one."""
    import onnx_ir as ir

    model = ir.load(source)
    order.rewrite(model, "engine" if prefixes else "whole")
    onnx_files.save(model, target)
