"""Runs an exported graph that does not fit into memory, some nodes at a time: a `Session` for verification,
never for serving.

ONNX Runtime computes every node from the stored weights, as it does when the graph is served whole. It has no
bf16 on processors, so a bf16 graph is computed in float32 and every bf16 value is rounded to bf16, as a GPU
stores it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...runtime import machine
from ...runtime.artifact.manifest import Graph, Profile
from ...runtime.engines.ort import library
from ...runtime.engines.table import Arrays

# Float32 weights of one slice: one layer of an 8B model.
_SLICE_BYTES = 1_000_000_000
_BF16, _FLOAT = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class _Slice:
    """Nodes that run together, and the names of what they read and write."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


class SlicedGraph:
    """Returns what a session of the whole graph does, and reads the weights from the artifact for every
    run."""

    def __init__(self, folder: Path, graph: Graph) -> None:
        model = onnx.load(folder / graph.file, load_external_data=False)
        self._folder, self._opsets, self._functions = folder, model.opset_import, model.functions
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        kinds = {
            value.name: value.type.tensor_type.elem_type
            for value in (*model.graph.value_info, *model.graph.output)
        }
        self._rounds = {name for name, kind in kinds.items() if kind == _BF16}
        self._outputs = [value.name for value in model.graph.output]
        self._slices = self._cut(self._without_casts(model.graph))
        self._last: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] | None = None

    lanes = 1

    @property
    def backend(self) -> str:
        return "onnxruntime"

    @property
    def profiles(self) -> Sequence[Profile]:
        return ()

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        # One pass computes the outputs of every task, and the caller takes one task after the other.
        if self._last is None or not all(
            np.array_equal(inputs[name], array) for name, array in self._last[0].items()
        ):
            self._last = ({name: np.array(array) for name, array in inputs.items()}, self._computed(inputs))
        return [self._last[1][name] for name in outputs]

    def close(self) -> None:
        self._last = None

    def _without_casts(self, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """The nodes, but for the casts of bf16 weights to float32, whose results become weights themselves:
        `_weight` reads both as float32. As nodes of a slice they would hold all weights at once."""
        nodes = []
        for node in graph.node:
            weight = self._weights.get(node.input[0]) if node.op_type == "Cast" else None
            if weight is not None and weight.data_type == _BF16 and node.attribute[0].i == _FLOAT:
                self._weights[node.output[0]] = weight
            else:
                nodes.append(node)
        return nodes

    def _cut(self, ordered: Sequence[onnx.NodeProto]) -> list[_Slice]:
        groups: list[list[onnx.NodeProto]] = [[]]
        weight = 0
        for node in ordered:
            weight += sum(
                4 * int(np.prod(self._weights[name].dims)) for name in _read(node) if name in self._weights
            )
            if weight > _SLICE_BYTES and groups[-1]:
                groups.append([])
                weight = 0
            groups[-1].append(node)
        slices: list[_Slice] = []
        wanted = set(self._outputs)
        for nodes in reversed(groups):
            read = {name for node in nodes for name in _read(node) if name}
            written = {name for node in nodes for name in node.output}
            weights = tuple(sorted(name for name in read if name in self._weights))
            inputs = tuple(sorted(read - written - set(weights)))
            slices.append(_Slice(tuple(nodes), inputs, weights, tuple(sorted(written & wanted))))
            wanted |= set(inputs)
        return slices[::-1]

    def _computed(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = dict(inputs)
        for index, part in enumerate(self._slices):
            feed = {name: values[name] for name in part.inputs} | {
                name: self._weight(name) for name in part.weights
            }
            values |= dict(
                zip(part.outputs, self._session(part, feed).run(list(part.outputs), feed), strict=True)
            )
            needed = {name for later in self._slices[index + 1 :] for name in later.inputs} | set(
                self._outputs
            )
            values = {name: array for name, array in values.items() if name in needed}
        return values

    def _session(self, part: _Slice, feed: Mapping[str, NDArray[Any]]) -> Any:
        onnxruntime = library()
        nodes = [new for node in part.nodes for new in self._rounded(node)]
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in feed.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in part.outputs]
        proto = onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "slice", inputs, outputs),
            opset_imports=self._opsets,
            functions=self._functions,
            ir_version=10,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = machine.cpus()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _rounded(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The node, and the rounding to bf16 of every output that the graph holds in bf16."""
        rounds = [name for name in node.output if name in self._rounds]
        if not rounds:
            return [node]
        exact = onnx.NodeProto()
        exact.CopyFrom(node)
        casts = []
        for index, name in enumerate(exact.output):
            if name in rounds:
                exact.output[index] = f"{name}/exact"
                casts.append(onnx.helper.make_node("Cast", [f"{name}/exact"], [f"{name}/bf16"], to=_BF16))
                casts.append(onnx.helper.make_node("Cast", [f"{name}/bf16"], [name], to=_FLOAT))
        for attribute in exact.attribute:
            if exact.op_type == "Cast" and attribute.name == "to" and attribute.i == _BF16:
                attribute.i = _FLOAT
        return [exact, *casts]

    def _weight(self, name: str) -> NDArray[Any]:
        tensor = self._weights[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor)
            return array.astype(np.float32) if tensor.data_type == _BF16 else array
        kind = (
            np.dtype(np.uint16)
            if tensor.data_type == _BF16
            else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        )
        shape, start = tuple(tensor.dims), int(where.get("offset", 0))
        array = np.memmap(self._folder / where["location"], dtype=kind, mode="r", offset=start, shape=shape)
        return _float32(array) if tensor.data_type == _BF16 else np.asarray(array)


def _float32(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bf16, which is the upper half of a float32, without a copy in between: a table of tokens takes
    gigabytes."""
    wide = np.zeros((*halves.shape, 2), np.uint16)
    wide[..., int(sys.byteorder == "little")] = halves
    return wide.view(np.float32)[..., 0]


def _read(node: onnx.NodeProto) -> list[str]:
    """Names of what a node reads, its subgraphs included."""
    names = list(node.input)
    for attribute in node.attribute:
        graph = attribute.g if attribute.type == onnx.AttributeProto.GRAPH else None
        if graph is not None:
            inside = {name for inner in graph.node for name in inner.output} | {
                value.name for value in (*graph.input, *graph.initializer)
            }
            names += [name for inner in graph.node for name in _read(inner) if name not in inside]
    return names
