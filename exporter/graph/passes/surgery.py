"""Small building blocks for rewriting an ONNX graph with onnx-ir: named constants, node chains,
and where the heads begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
)
# exp of it is 0 in fp32, and adding any score to it does not overflow.
_NEVER = np.float32(-1e30)
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Attention"})


class Surgeon:
    """Adds constants and nodes to one graph under names that no other value has."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self.graph, self._prefix, self._number = model.graph, prefix, 0
        self._constants: dict[str, ir.Value] = {}

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initialiser; the same name gives the same one."""
        import onnx_ir as ir

        if name not in self._constants:
            # asarray, as ascontiguousarray would make one number a vector of one.
            self._constants[name] = self.attach(
                ir.tensor(np.asarray(array, order="C"), name=f"{self._prefix}/{name}")
            )
        return self._constants[name]

    def attach(self, tensor: ir.TensorProtocol) -> ir.Value:
        """An initialiser under the tensor's own name."""
        import onnx_ir as ir

        shape = ir.Shape([int(axis) for axis in tensor.shape])  # pyright: ignore[reportArgumentType]
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self, before: ir.Node | None, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """A node in front of `before` (None: behind all others), answering its one output."""
        import onnx_ir as ir

        self._number += 1
        made = ir.node(
            kind,
            list(inputs),
            attributes=attributes or None,
            domain=domain,
            name=f"{self._prefix}/{kind}_{self._number}",
        )
        made.outputs[0].name = f"{self._prefix}/{kind.lower()}_{self._number}"
        if before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(before, made)
        return made.outputs[0]


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initialiser (or behind a Transpose of one, as exports of untouched weights
    have); None if it is computed."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose":
        source = producer.inputs[0]
        if source is not None and source.const_value is not None:
            order = producer.attributes.get("perm")
            return np.transpose(source.const_value.numpy(), None if order is None else list(order.as_ints()))
    return None


def heads(graph: ir.Graph) -> set[ir.Node]:
    """The nodes after the last norm: pooling, projections, classifiers.

    Found from the outputs backwards, up to the inputs of norms. A head without any norm before it
    (or one that runs into the attention of a layer) ends at its nearest products instead, so that a
    body never counts as a head.
    """
    found: set[ir.Node] = set()
    roots = {value for node in graph for value in norm_inputs(node)}
    for output in graph.outputs:
        reached = _backwards([output], lambda value: value in roots)
        if any(node.op_type in ("Softmax", "Attention") for node in reached):
            reached = _backwards([output], lambda value: _is_product(value))
        found |= reached
    return found


def norm_inputs(node: ir.Node) -> Iterable[ir.Value]:
    """What a norm normalises: the input of a LayerNormalization, or x of a spelled-out mean(x * x)."""
    if node.op_type in NORMS:
        yield from (value for value in node.inputs[:1] if value is not None)
    elif node.op_type == "ReduceMean" and node.inputs[0] is not None:
        square = node.inputs[0].producer()
        if square is not None and (
            square.op_type == "Pow"
            or (square.op_type == "Mul" and len(square.inputs) == 2 and square.inputs[0] is square.inputs[1])
        ):
            yield from (value for value in square.inputs[:1] if value is not None)


def unguard(model: ir.Model) -> None:
    """Removes torch's guard `where(isnan(softmax), 0, softmax)` and masks with a large finite number
    instead of minus infinity.

    The guard serves rows that may attend to nothing; those are padding here, and pooling leaves them out. It
    costs two passes over the attention weights (3 to 16 % of MiniLM in onnxruntime, most at 512 tokens), and
    with it TensorRT-RTX 1.7 fails on 16-bit attention (mha_fusion.cpp: is_softmax). In fp32 the finite mask
    still vanishes in the softmax.
    """
    import onnx_ir.passes.common as passes

    surgeon = Surgeon(model, "mask")
    for node in list(model.graph):
        if node.op_type == "Where" and (guarded := _guarded(node)) is not None:
            node.outputs[0].replace_all_uses_with(guarded)
    for node in model.graph:
        if node.op_type == "Where":
            for index, value in enumerate(node.inputs):
                if value is not None and value.const_value is not None and value.const_value.size == 1:
                    array = value.const_value.numpy()
                    if array.dtype == np.float32 and np.isneginf(array).all():
                        node.replace_input_with(
                            index, surgeon.constant(f"never {array.ndim}", np.full_like(array, _NEVER))
                        )
    passes.RemoveUnusedNodesPass()(model)


def keep_empty_rows(model: ir.Model) -> None:
    """Gives rows that may attend to nothing zeros, as torch's attention does. Goes in front of `unguard`,
    which drops what marks them.

    torch.onnx writes the smallest finite number where torch has minus infinity, so the softmax of such a row
    is a mean of all keys and never the NaN that torch's guard waits for. What is attended is multiplied by
    whether the mask admits any key, [batch, 1, rows, 1].
    """
    import onnx_ir as ir

    surgeon, places = Surgeon(model, "empty"), {node: place for place, node in enumerate(model.graph)}
    admits: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        guarded = _guarded(node) if node.op_type == "Where" else None
        mask = _mask_of(guarded) if guarded is not None else None
        if mask is None:
            continue
        if mask not in admits:
            last = surgeon.constant("last axis", np.array([-1], np.int64))
            number = surgeon.node(node, "Cast", mask, to=int(ir.DataType.FLOAT))
            admits[mask] = surgeon.node(node, "ReduceMax", number, last, keepdims=1)
            number.type = admits[mask].type = ir.TensorType(ir.DataType.FLOAT)
        for attend in [use.node for use in node.outputs[0].uses()]:
            attended = attend.outputs[0]
            readers = list(attended.uses())
            kept = surgeon.node(
                min((use.node for use in readers), key=places.__getitem__), "Mul", attended, admits[mask]
            )
            kept.shape, kept.type = attended.shape, attended.type
            for use in readers:
                use.node.replace_input_with(use.idx, kept)


def _mask_of(weights: ir.Value) -> ir.Value | None:
    """Which keys `softmax(scores + where(mask, 0, never))` admits, [batch, 1, rows, keys]; None
    where nothing is masked."""
    total = _producer(_input(weights.producer(), 0), "Add")
    for value in total.inputs if total is not None else ():
        chosen = _producer(value, "Where")
        never = constant_of(chosen.inputs[2]) if chosen is not None else None
        if chosen is not None and never is not None and never.size == 1 and never.item() <= _NEVER:
            return chosen.inputs[0]
    return None


def _input(node: ir.Node | None, index: int) -> ir.Value | None:
    return node.inputs[index] if node is not None else None


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def _guarded(node: ir.Node) -> ir.Value | None:
    """The softmax behind a `where(isnan(softmax), constant, softmax)`."""
    condition, otherwise = node.inputs[0], node.inputs[2]
    asked = condition.producer() if condition is not None else None
    if asked is None or asked.op_type != "IsNaN" or otherwise is None or asked.inputs[0] is not otherwise:
        return None
    producer = otherwise.producer()
    return otherwise if producer is not None and producer.op_type == "Softmax" else None


def _is_product(value: ir.Value) -> bool:
    producer = value.producer()
    return (
        producer is not None and producer.op_type in PRODUCTS and constant_of(producer.inputs[1]) is not None
    )


def _backwards(values: Iterable[ir.Value], stop: Any) -> set[ir.Node]:
    reached: set[ir.Node] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or node in reached:
            continue
        reached.add(node)
        waiting += [source for source in node.inputs if source is not None and not stop(source)]
    return reached
