"""Products whose weights are integers of 8 or 4 bits in groups, and whose activations stay float32.

The pass writes com.microsoft.MatMulNBits, which ONNX Runtime and OpenVINO both read, and which neither of
them widens in memory. Weights of a model too large for memory are quantised one by one while they are written
(docs/decisions/weight-only.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..passes.surgery import Surgeon, heads
from . import groups
from .groups import Bits, Groups
from .products import SMALLEST_SIDE, Matrix, look_up, matrix_of, name_of, rows, table_of
from .quantised import Quantised

if TYPE_CHECKING:
    import onnx_ir as ir

PREFIX = "weights"
"""Of the names of nodes that are added."""
# ONNX Runtime's kernels round activations to int8 in groups of their own, where the processor gains by it.
_ACCURACY = 4


@dataclass(frozen=True, slots=True)
class Options:
    bits: Bits
    keep: Collection[str] = ()
    """Products and tables, by their names in `Quantised`, that stay fp32."""
    finer: Collection[str] = ()
    """Products that get 8 bits where the others have 4."""
    importance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Product -> the mean square of each of its inputs, as `observed` names them."""


@dataclass(slots=True)
class WeightOnly:
    """What was done to a graph."""

    quantised: Quantised
    errors: dict[str, float]
    """Product -> `Groups.error`, once the graph is written."""


def quantise(model: ir.Model, options: Options) -> WeightOnly:
    """Quantises the weights of an fp32 graph in place. The numbers are computed when they are written."""
    model.opset_imports["com.microsoft"] = 1
    # Keys and values of a prefix are returned as they are projected, which makes no head of the projections.
    surgeon, head_nodes = Surgeon(model, PREFIX), heads(model.graph)
    done = WeightOnly(Quantised((), (), ()), {})
    products, tables, kept = [], [], []
    for node in list(model.graph):
        if node.op_type == "MatMul" and (matrix := matrix_of(node.inputs[1])) is not None:
            name = name_of(node)
            bits: Bits = 8 if name in options.finer else options.bits
            size = groups.size_of(matrix.shape[0], bits)
            if node in head_nodes or name in options.keep or min(matrix.shape) < SMALLEST_SIDE or not size:
                kept.append(name)
                continue
            _product(surgeon, node, _Source(matrix, name, bits, size, options, done.errors))
            products.append(name)
        elif (table := table_of(node)) is not None and name_of(node) not in options.keep:
            _lookup(surgeon, node, table)
            tables.append(name_of(node))
    done.quantised = Quantised(tuple(products), tuple(tables), tuple(kept))
    return done


def observed(model: ir.Model) -> dict[str, str]:
    """Adds an output for each activation that products read: the sum of squares of each of its columns,
    [columns]. Returns product -> output."""
    import onnx_ir as ir

    surgeon = Surgeon(model, "observed")
    axis = surgeon.constant("rows", np.array([0], np.int64))
    sums: dict[ir.Value, str] = {}
    outputs: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type != "MatMul" or (matrix := matrix_of(node.inputs[1])) is None:
            continue
        x = node.inputs[0]
        assert x is not None
        if x not in sums:
            shape = surgeon.constant(f"rows of {matrix.shape[0]}", np.array([-1, matrix.shape[0]], np.int64))
            flat = surgeon.node(None, "Reshape", x, shape)
            total = surgeon.node(None, "ReduceSumSquare", flat, axis, keepdims=0)
            total.type, total.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([matrix.shape[0]])
            model.graph.outputs.append(total)
            sums[x] = str(total.name)
        outputs[name_of(node)] = sums[x]
    return outputs


@dataclass(slots=True)
class _Source:
    """The weights of a product, quantised when the first of their tensors is written, and forgotten behind
    the last of them."""

    matrix: Matrix
    name: str
    bits: Bits
    size: int
    options: Options
    errors: dict[str, float]
    _groups: Groups | None = None

    def part(self, name: Literal["values", "scales", "zeros"]) -> NDArray[Any]:
        if self._groups is None:
            importance = self.options.importance.get(self.name)
            self._groups = groups.quantised(self.matrix.read(), self.bits, self.size, importance)
            self.errors[self.name] = self._groups.error
        array = getattr(self._groups, name)
        if name == ("scales" if self.bits == 8 else "zeros"):
            self._groups = None
        return array


def _product(surgeon: Surgeon, node: ir.Node, source: _Source) -> None:
    """Replaces a product by one with groups."""
    inputs, columns = source.matrix.shape
    count, size = inputs // source.size, source.size * source.bits // 8
    name = source.name
    operands = [
        _later(surgeon, f"{name}/values", lambda: source.part("values"), np.uint8, (columns, count, size)),
        _later(surgeon, f"{name}/scales", lambda: source.part("scales"), np.float32, (columns, count)),
    ]
    if source.bits == 4:
        shape = columns, (count + 1) // 2
        operands.append(_later(surgeon, f"{name}/zeros", lambda: source.part("zeros"), np.uint8, shape))
    sizes = {"K": inputs, "N": columns, "bits": source.bits, "block_size": source.size}
    y = surgeon.node(
        node,
        "MatMulNBits",
        node.inputs[0],
        *operands,
        domain="com.microsoft",
        accuracy_level=_ACCURACY,
        **sizes,
    )
    surgeon.replace(node, y)


def _lookup(surgeon: Surgeon, node: ir.Node, table: Matrix) -> None:
    """Replaces an embedding table by int8 rows, each with its own scale."""
    name = name_of(node)
    whole = _later(surgeon, f"{name}/rows", lambda: rows(table.read())[0], np.int8, table.shape)
    scales = _later(surgeon, f"{name}/scales", lambda: rows(table.read())[1], np.float32, (table.shape[0], 1))
    look_up(surgeon, node, whole, scales)


def _later(
    surgeon: Surgeon,
    name: str,
    read: Callable[[], NDArray[Any]],
    kind: type[np.generic],
    shape: tuple[int, ...],
) -> ir.Value:
    """Returns an initialiser whose numbers are computed whenever they are read."""
    import onnx_ir as ir

    dtype = ir.DataType.from_numpy(np.dtype(kind))
    name = f"{PREFIX}/{name}"
    return surgeon.attach(ir.LazyTensor(lambda: ir.tensor(read()), dtype, ir.Shape(shape), name=name))
