"""Runs an exported graph that does not fit into memory, some nodes at a time: a `Session` for
verification, never for serving.

Every node and every stored weight of the artifact takes part, in ONNX Runtime, as when it is served whole.
What ONNX Runtime lacks on processors is bf16: such a graph is computed in float32 with every value that it
holds in bf16 rounded to bf16, as a GPU stores it.
"""

from __future__ import annotations

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
from ...runtime.engines.table import Arrays

# Float32 weights of one piece: one layer of an 8B model.
_PIECE_BYTES = 1_000_000_000
_BF16, _FLOAT = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class _Slice:
    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


class SlicedGraph:
    """Answers as a session of the whole graph does, reading the weights from the artifact each time."""

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
        self._pieces = self._cut(model.graph)
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
        # Tasks are asked for one after the other, and all of them come out of one pass.
        if self._last is None or not all(
            np.array_equal(inputs[name], array) for name, array in self._last[0].items()
        ):
            self._last = ({name: np.array(array) for name, array in inputs.items()}, self._computed(inputs))
        return [self._last[1][name] for name in outputs]

    def close(self) -> None:
        self._last = None

    def _cut(self, graph: onnx.GraphProto) -> list[_Slice]:
        groups: list[list[onnx.NodeProto]] = [[]]
        weight = 0
        for node in graph.node:
            weight += sum(
                4 * int(np.prod(self._weights[name].dims)) for name in _read(node) if name in self._weights
            )
            if weight > _PIECE_BYTES and groups[-1]:
                groups.append([])
                weight = 0
            groups[-1].append(node)
        made: list[_Slice] = []
        wanted = set(self._outputs)
        for nodes in reversed(groups):
            read = {name for node in nodes for name in _read(node) if name}
            written = {name for node in nodes for name in node.output}
            weights = tuple(sorted(name for name in read if name in self._weights))
            inputs = tuple(sorted(read - written - set(weights)))
            made.append(_Slice(tuple(nodes), inputs, weights, tuple(sorted(written & wanted))))
            wanted |= set(inputs)
        return made[::-1]

    def _computed(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = dict(inputs)
        for index, piece in enumerate(self._pieces):
            feed = {name: values[name] for name in piece.inputs} | {
                name: self._weight(name) for name in piece.weights
            }
            values |= dict(
                zip(piece.outputs, self._session(piece, feed).run(list(piece.outputs), feed), strict=True)
            )
            needed = {name for later in self._pieces[index + 1 :] for name in later.inputs} | set(
                self._outputs
            )
            values = {name: array for name, array in values.items() if name in needed}
        return values

    def _session(self, piece: _Slice, feed: Mapping[str, NDArray[Any]]) -> Any:
        import onnxruntime

        nodes = [made for node in piece.nodes for made in self._rounded(node)]
        given = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in feed.items()
        ]
        asked = [onnx.ValueInfoProto(name=name) for name in piece.outputs]
        proto = onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "piece", given, asked),
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
        """The node, and behind each of its bf16 outputs the rounding that storing it does."""
        rounds = [name for name in node.output if name in self._rounds]
        if not rounds:
            return [node]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        after = []
        for index, name in enumerate(made.output):
            if name in rounds:
                made.output[index] = f"{name}/exact"
                after.append(onnx.helper.make_node("Cast", [f"{name}/exact"], [f"{name}/bf16"], to=_BF16))
                after.append(onnx.helper.make_node("Cast", [f"{name}/bf16"], [name], to=_FLOAT))
        for attribute in made.attribute:
            if made.op_type == "Cast" and attribute.name == "to" and attribute.i == _BF16:
                attribute.i = _FLOAT
        return [made, *after]

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
        # bf16 is the upper half of a float32.
        return (
            (array.astype(np.uint32) << 16).view(np.float32)
            if tensor.data_type == _BF16
            else np.asarray(array)
        )


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its subgraphs included."""
    found = list(node.input)
    for attribute in node.attribute:
        graph = attribute.g if attribute.type == onnx.AttributeProto.GRAPH else None
        if graph is not None:
            inside = {name for inner in graph.node for name in inner.output} | {
                value.name for value in (*graph.input, *graph.initializer)
            }
            found += [name for inner in graph.node for name in _read(inner) if name not in inside]
    return found
