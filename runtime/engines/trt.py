"""TensorRT-RTX and TensorRT: their Python APIs are the same, so one file serves both.

Device memory is allocated once, for the largest shape of any profile, and shared by all contexts. Inputs and
outputs have fixed addresses in it, so that the CUDA graph of a shape bucket can be replayed and memory stays
flat.

This file is long because a session releases memory, contexts and captured graphs together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Engine, Graph, Manifest, Profile, Tensor
from ..errors import EngineError
from . import trt_library
from .cuda import Cuda, host_array
from .cuda_graphs import LeastRecent, Shape, bucket, choose, shape_of
from .table import Arrays

GRAPHS = 64
"""Most captured CUDA graphs per session. Each holds a context of a few MB on the host; device memory is
shared."""
_ALIGNMENT = 256
FEATURES = "features"
"""The input whose rows belong to the whole batch."""


def open(folder: Path, manifest: Manifest, engine: Engine) -> Session:
    """Opens a compiled engine on the current GPU. Raises EngineError that names what does not fit."""
    trt = trt_library.library(engine.backend)
    cuda = Cuda()
    problem = trt_library.mismatch(engine, device=cuda.device(), version=trt.__version__)
    if problem:
        raise EngineError(problem)
    graph = next(graph for graph in manifest.graphs if graph.file == engine.graph)
    patches = None if manifest.images is None else manifest.images.patches
    return Session(
        trt,
        cuda,
        (folder / engine.file).read_bytes(),
        engine,
        graph,
        pad_id=manifest.text.pad_id,
        merged=1 if patches is None else patches.merge**2,
    )


@dataclass(slots=True)
class _Tensor:
    """An input or output, its address on the device and its pinned host memory."""

    name: str
    dtype: np.dtype[Any]
    axes: tuple[str | int, ...]
    """Those of the manifest."""
    device: int
    host: NDArray[np.uint8]

    def shape(self, shape: Shape) -> tuple[int, ...]:
        return shape_of(self.axes, shape)

    def view(self, of: Shape) -> NDArray[Any]:
        """The pinned memory as an array of this batch's shape."""
        shape = self.shape(of)
        return self.host[: math.prod(shape) * self.dtype.itemsize].view(self.dtype).reshape(shape)


@dataclass(slots=True)
class _Captured:
    context: Any
    graph: Any
    """Executable CUDA graph; None where the context cannot be captured, then it is enqueued each time."""


class Session:
    """An engine on the GPU. See `table.Session`. `graphs` holds the captured CUDA graphs and counts released
    ones.

    Args:
        graph: the manifest's record of what it was compiled from, whose axes its tensors have.
        merged: patches of one row of features.
    """

    def __init__(
        self,
        trt: ModuleType,
        cuda: Cuda,
        plan: bytes,
        engine: Engine,
        graph: Graph,
        *,
        pad_id: int,
        merged: int = 1,
        graphs: int = GRAPHS,
    ) -> None:
        self._trt, self._cuda, self._facts, self._pad_id = trt, cuda, engine, pad_id
        self._merged = merged
        self._recorded = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._stream: Any = None
        self._log = trt_library.logger(trt)
        self.graphs: LeastRecent[tuple[int, Shape], _Captured] = LeastRecent(graphs, self._release)
        # engine_host_code_allowed stays off: a plan must not bring machine code for the host.
        self._runtime = trt.Runtime(self._log)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{engine.file}: {engine.backend} does not open it: "
                f"{' | '.join(self._log.lines[-3:]) or 'no reason given'}"
            )
        self._check_profiles()
        try:
            self._stream = cuda("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
            self._scratch_bytes = max(
                self._engine.get_device_memory_size_for_profile_v2(index)
                for index in range(self._engine.num_optimization_profiles)
            )
            self._scratch = self._allocate(self._scratch_bytes)
            tensors = [
                self._tensor(self._engine.get_tensor_name(index))
                for index in range(self._engine.num_io_tensors)
            ]
        except BaseException:
            self.close()
            raise
        is_input = {
            tensor.name: self._engine.get_tensor_mode(tensor.name) == trt.TensorIOMode.INPUT
            for tensor in tensors
        }
        self._inputs = {tensor.name: tensor for tensor in tensors if is_input[tensor.name]}
        self._outputs = {tensor.name: tensor for tensor in tensors if not is_input[tensor.name]}

    lanes = 1

    @property
    def backend(self) -> str:
        return self._facts.backend

    @property
    def profiles(self) -> Sequence[Profile]:
        return self._facts.profiles

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        unknown = [name for name in outputs if name not in self._outputs]
        if unknown:
            raise EngineError(
                f"{self._facts.file}: no output {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self._outputs)}"
            )
        rows, width = self._extent(inputs)
        chosen = choose(rows, width, self.profiles)
        if chosen is None:
            longest = max(profile.largest[1] for profile in self.profiles)
            what = "patches" if "patches" in self._axes else "tokens"
            raise EngineError(f"{self._facts.file}: compiled for up to {longest} {what}, found {width}")
        most = self.profiles[chosen].largest[0]
        parts = [
            self._run(chosen, part(inputs, start, most) if rows > most else inputs, outputs)
            for start in range(0, rows, most)
        ]
        return (
            parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        )

    def close(self) -> None:
        if self._stream is not None:
            self._cuda("cudaStreamSynchronize", self._stream)
        self.graphs.clear()
        for address in self._memory:
            self._cuda("cudaFree", address)
        for address in self._pinned:
            self._cuda("cudaFreeHost", address)
        if self._stream is not None:
            self._cuda("cudaStreamDestroy", self._stream)
        self._memory, self._pinned, self._stream, self._engine = [], [], None, None

    def _run(self, index: int, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        rows, width = self._extent(inputs)
        features = len(inputs[FEATURES]) if FEATURES in inputs else 0
        shape = bucket(rows, width, self.profiles[index], features=features, merged=self._merged)
        for name, tensor in self._inputs.items():
            fill(
                tensor.view(shape),
                inputs[name],
                self._pad_id if name == "input_ids" else 0,
                repeats=tensor.axes[0] == "batch",
            )
            self._copy(tensor, shape, to_device=True)
        held = self.graphs.get((index, shape), lambda: self._capture(index, shape))
        if held.graph is not None:
            self._cuda("cudaGraphLaunch", held.graph, self._stream)
        else:
            self._enqueue(held.context)
        for name in outputs:
            self._copy(self._outputs[name], shape, to_device=False)
        self._cuda("cudaStreamSynchronize", self._stream)
        arrays = []
        for name in outputs:
            tensor = self._outputs[name]
            kept = shape_of(tensor.axes, shape._replace(rows=rows, width=width))
            # A copy, since the next batch writes to the same pinned memory.
            arrays.append(np.array(tensor.view(shape)[tuple(map(slice, kept))], dtype=np.float32))
        return arrays

    @property
    def _axes(self) -> set[str | int]:
        return {axis for tensor in self._inputs.values() for axis in tensor.axes}

    def _extent(self, inputs: Arrays) -> tuple[int, int]:
        """(rows, width) of a batch: its texts and their tokens, or pictures and their patches. Pictures of
        one size have the width 1."""
        rows, width = 0, 1
        for name, tensor in self._inputs.items():
            for axis, size in zip(tensor.axes, inputs[name].shape, strict=True):
                rows = size if axis == "batch" else rows
                width = size if axis in ("tokens", "patches") else width
        return rows, width

    def _capture(self, index: int, shape: Shape) -> _Captured:
        """A context for one exact shape, run once, so that its kernels are chosen and compiled, then
        captured."""
        context = self._context()
        self._ok(
            context.set_optimization_profile_async(index, int(self._stream)), "choosing the profile", shape
        )
        for name, tensor in self._inputs.items():
            self._ok(context.set_input_shape(name, tensor.shape(shape)), f"the shape of {name}", shape)
            self._ok(context.set_tensor_address(name, tensor.device), f"the address of {name}", shape)
        for name, tensor in self._outputs.items():
            output_shape = tuple(context.get_tensor_shape(name))
            assert output_shape == tensor.shape(shape), (
                f"{name}: engine answers {output_shape}, expected {tensor.shape(shape)}"
            )
            self._ok(context.set_tensor_address(name, tensor.device), f"the address of {name}", shape)
        context.set_device_memory(self._scratch, self._scratch_bytes)
        self._enqueue(context)
        self._cuda("cudaStreamSynchronize", self._stream)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._stream)):
            return _Captured(context, None)
        modes = self._cuda.api.cudaStreamCaptureMode
        # Thread-local, since other sessions of this process may allocate on their threads meanwhile.
        self._cuda("cudaStreamBeginCapture", self._stream, modes.cudaStreamCaptureModeThreadLocal)
        try:
            self._enqueue(context)
        finally:
            graph = self._cuda("cudaStreamEndCapture", self._stream)
        try:
            return _Captured(context, self._cuda("cudaGraphInstantiate", graph, 0))
        finally:
            self._cuda("cudaGraphDestroy", graph)

    def _context(self) -> Any:
        trt, settings = self._trt, None
        if hasattr(self._engine, "create_runtime_config"):
            settings = self._engine.create_runtime_config()
            settings.set_execution_context_allocation_strategy(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            if hasattr(settings, "dynamic_shapes_kernel_specialization_strategy"):
                # By default RTX compiles the kernels for a shape in the background, and a graph captured
                # before that would keep the slow ones.
                settings.dynamic_shapes_kernel_specialization_strategy = (
                    trt.DynamicShapesKernelSpecializationStrategy.EAGER
                )
            context = self._engine.create_execution_context(settings)
        else:
            context = self._engine.create_execution_context(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            raise EngineError(f"{self._facts.file}: no execution context: {' | '.join(self._log.lines[-3:])}")
        return context

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError(f"{self._facts.file}: running it failed: {' | '.join(self._log.lines[-3:])}")

    def _ok(self, succeeded: bool, what: str, shape: Shape) -> None:
        if not succeeded:
            raise EngineError(
                f"{self._facts.file}: {what} was refused for {shape.rows} x {shape.width}: "
                f"{' | '.join(self._log.lines[-3:])}"
            )

    def _release(self, held: _Captured) -> None:
        if held.graph is not None:
            self._cuda("cudaGraphExecDestroy", held.graph)
        held.graph = held.context = None

    def _tensor(self, name: str) -> _Tensor:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        recorded: Tensor | None = self._recorded.get(name)
        if recorded is None:
            raise EngineError(f"{self._facts.file}: it has a tensor {name!r} that its graph has not")
        largest = max(
            math.prod(shape_of(recorded.axes, Shape(*profile.largest, math.prod(profile.largest) + 1)))
            for profile in self._facts.profiles
        )
        size = largest * dtype.itemsize
        address = int(self._cuda("cudaHostAlloc", size, 0))
        self._pinned.append(address)
        return _Tensor(name, dtype, recorded.axes, self._allocate(size), host_array(address, size))

    def _allocate(self, size: int) -> int:
        # cudaMalloc aligns to 256 bytes, as contexts need.
        address = int(self._cuda("cudaMalloc", max(size, _ALIGNMENT)))
        self._memory.append(address)
        return address

    def _copy(self, tensor: _Tensor, shape: Shape, *, to_device: bool) -> None:
        view, kinds = tensor.view(shape), self._cuda.api.cudaMemcpyKind
        if to_device:
            self._cuda(
                "cudaMemcpyAsync",
                tensor.device,
                view.ctypes.data,
                view.nbytes,
                kinds.cudaMemcpyHostToDevice,
                self._stream,
            )
        else:
            self._cuda(
                "cudaMemcpyAsync",
                view.ctypes.data,
                tensor.device,
                view.nbytes,
                kinds.cudaMemcpyDeviceToHost,
                self._stream,
            )

    def _check_profiles(self) -> None:
        count = self._engine.num_optimization_profiles
        if count != len(self._facts.profiles):
            raise EngineError(
                f"{self._facts.file}: it has {count} profiles, the manifest tells {len(self._facts.profiles)}"
            )


def part(inputs: Arrays, start: int, most: int) -> Arrays:
    """`most` rows of a batch from `start` on, with the features that they read and their own index."""
    rows = {name: array[start : start + most] for name, array in inputs.items() if name != FEATURES}
    if FEATURES not in inputs:
        return rows
    index, features = rows["feature_index"], inputs[FEATURES]
    used = index[index > 0]
    first, end = (int(used.min()), int(used.max()) + 1) if used.size else (1, 1)
    return {
        **rows,
        "feature_index": np.where(index > 0, index - (first - 1), 0),
        FEATURES: np.concatenate([features[:1], features[first:end]]),
    }


def fill(target: NDArray[Any], source: NDArray[Any], padding: int, *, repeats: bool = True) -> None:
    """Writes `source` into the corner of the bucket `target`. What lies behind a row is padding, and new rows
    repeat the first; `repeats` false: they are padding.

    A row of padding alone would have no token to attend to, and a softmax over no key is NaN.
    """
    rows = len(source)
    if source.shape[1:] != target.shape[1:]:
        target[:rows] = padding
    target[tuple(map(slice, source.shape))] = source
    target[rows:] = target[:1] if repeats else padding
