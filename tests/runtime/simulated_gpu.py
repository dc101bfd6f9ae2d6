# ruff: noqa: N801, N802, N815 (the names are those of the CUDA runtime)
"""A GPU made of host memory: the calls of cuda-bindings and TensorRT that `runtime/engines/trt.py` makes,
with their rules checked.

It does not stand for the real libraries (tests/gpu does that where there is a GPU); it runs our own code:
addresses, padding, capture and replay, eviction and release. An engine is an ONNX graph that onnxruntime
computes between device addresses.
"""

from __future__ import annotations

import ctypes
import enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1


OK = cudaError_t.cudaSuccess


class Cuda:
    """Answers (error, ...) as cuda.bindings.runtime does. Streams are integers; work on them is done at once,
    or recorded in a capture."""

    cudaError_t = cudaError_t
    cudaStreamNonBlocking = 1
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.graphs: dict[int, list[Any]] = {}
        self.streams: set[int] = set()
        self.recording: list[Any] | None = None
        self.launched = 0

    def _new(self, size: int) -> tuple[cudaError_t, int]:
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaMalloc(self, size: int) -> Any:
        return self._new(size)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        assert flags == 0
        return self._new(size)

    def cudaFree(self, address: int) -> Any:
        del self.memory[address]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        self.streams.add(7)
        return OK, 7

    def cudaStreamDestroy(self, stream: int) -> Any:
        self.streams.remove(stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        assert self.recording is None, "a captured stream must not be waited for"
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> Any:
        for address in (to, source):
            assert any(
                start <= address and address + size <= start + len(block)
                for start, block in self.memory.items()
            ), "outside of any memory"
        ctypes.memmove(to, source, size)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        recorded, self.recording = self.recording, None
        return OK, recorded

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> Any:
        key = id(graph)
        self.graphs[key] = graph
        return OK, key

    def cudaGraphDestroy(self, graph: list[Any]) -> Any:
        return (OK,)

    def cudaGraphExecDestroy(self, key: int) -> Any:
        del self.graphs[key]
        return (OK,)

    def cudaGraphLaunch(self, key: int, stream: int) -> Any:
        self.launched += 1
        for work in self.graphs[key]:
            work()
        return (OK,)

    def cudaGetErrorString(self, code: Any) -> Any:
        return OK, b"simulated"


class _Logger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


def library(cuda: Cuda) -> Any:
    """The TensorRT module; `deserialize_cuda_engine` takes the path of an ONNX graph."""
    module: Any = ModuleType("simulated_tensorrt")
    module.ILogger = _Logger
    module.__version__ = "1.0"
    module.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    module.nptype = lambda kind: np.dtype(kind)
    module.Runtime = lambda log: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: Engine(Path(plan.decode()), cuda) if plan else None
    )
    return module


class Engine:
    num_optimization_profiles = 2
    merged = 4
    """Patches of one row of features."""

    def __init__(self, path: Path, cuda: Cuda) -> None:
        self.session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.cuda = cuda
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {value.name: value for value in (*self.inputs, *self.outputs)}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> str:
        return {"tensor(int64)": "int64", "tensor(float)": "float32"}[self.tensors[name].type]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in {value.name for value in self.inputs} else "out"

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return 1000 * (index + 1)

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "user", "contexts share memory"
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.profile, self.scratch = engine, None, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "a profile comes before shapes"
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.engine.cuda.memory

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {
            axis: size
            for tensor, shape in self.shapes.items()
            for axis, size in zip(self.engine.tensors[tensor].shape, shape, strict=True)
        }
        sizes["rows"] = sizes.get("patches", 0) // self.engine.merged
        declared = self.engine.tensors[name].shape
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in declared)

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self.engine.cuda.memory[address]) >= size
        self.scratch = size

    def execute_async_v3(self, stream: int) -> bool:
        assert stream in self.engine.cuda.streams
        assert self.scratch >= self.engine.get_device_memory_size_for_profile_v2(self.profile or 0)
        if self.engine.cuda.recording is not None:
            self.engine.cuda.recording.append(self._compute)
        else:
            self._compute()
        return True

    def _compute(self) -> None:
        feed = {
            name: self._array(name, shape, self.engine.get_tensor_dtype(name)).copy()
            for name, shape in self.shapes.items()
        }
        for value, answer in zip(self.engine.outputs, self.engine.session.run(None, feed), strict=True):
            self._array(value.name, answer.shape, np.float32)[...] = answer

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self.addresses[name]
        assert len(self.engine.cuda.memory[address]) >= size, f"{name}: its memory is too small"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)
