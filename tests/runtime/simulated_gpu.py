# ruff: noqa: N801, N802, N815 (the names are those of the CUDA runtime)
"""A GPU made of host memory: the calls of cuda-bindings and TensorRT that `runtime/engines/trt.py` makes,
with their rules checked.

It does not stand for the real libraries (tests/gpu does that where there is a GPU); it runs our own code:
addresses, padding, streams and events, capture and replay, eviction and release. An engine is an ONNX graph
that onnxruntime computes between device addresses. Work in a stream is done late, and in any order that
events allow: what is not ordered by an event computes wrong numbers.
"""

from __future__ import annotations

import ctypes
import enum
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1


OK = cudaError_t.cudaSuccess


@dataclass(slots=True)
class Work:
    """What a stream does next: something, or it reaches or waits for an event's recording."""

    what: str
    do: Callable[[], None]
    event: int = 0
    recording: int = 0
    reads: tuple[int, ...] = ()
    """Graphs that must live until it is done."""


class Cuda:
    """Answers (error, ...) as cuda.bindings.runtime does. Streams and events are integers. Work that is put
    into a stream waits until the host waits for it; then the streams go on in an order that is drawn.

    Args:
        seed: of the order in which streams go on.
        first: streams that always go on before others.
    """

    cudaError_t = cudaError_t
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, seed: int = 0, first: tuple[int, ...] = ()) -> None:
        self.memory: dict[int, Any] = {}
        self.graphs: dict[int, list[Any]] = {}
        self.streams: dict[int, deque[Work]] = {}
        self.events: dict[int, tuple[int, int]] = {}
        """Event -> how often it was recorded, and the last recording that was reached."""
        self.recording: tuple[int, list[Any]] | None = None
        """The captured stream, and what it recorded."""
        self.launched = 0
        self.log: list[str] = []
        """What was put into streams and what the host waited for, in order."""
        self.copied: list[int] = []
        """Bytes of each copy to the device."""
        self.done: list[str] = []
        """What streams did, in order."""
        self.refused: dict[str, int] = {}
        """Function -> how many more of its calls succeed before one fails."""
        self.lock = threading.RLock()
        self._random, self._first = random.Random(seed), first

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(value) or isinstance(value, type):
            return value

        def call(*arguments: Any) -> Any:
            with self.lock:
                left = self.refused.get(name)
                if left is not None:
                    self.refused[name] = left - 1
                    if left == 0:
                        del self.refused[name]
                        if name == "cudaStreamEndCapture":
                            self.recording = None  # a capture that is invalid ends all the same
                        return cudaError_t.cudaErrorInvalidValue, None
                return value(*arguments)

        return call

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
        assert not any(self.streams.values()), "work that is on its way may read it"
        del self.memory[address]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        stream = 7 + len(self.streams)
        self.streams[stream] = deque()
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> Any:
        assert not self.streams[stream], "its work is lost"
        del self.streams[stream]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        assert self.recording is None or self.recording[0] != stream, (
            "a captured stream must not be waited for"
        )
        self.log.append(f"wait for stream {stream}")
        self._go_on(lambda: not self.streams[stream])
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaEventDisableTiming
        event = 100 + len(self.events)
        self.events[event] = (0, 0)
        return OK, event

    def cudaEventDestroy(self, event: int) -> Any:
        del self.events[event]
        return (OK,)

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        recorded, reached = self.events[event]
        self.events[event] = (recorded + 1, reached)
        self.put(stream, Work(f"record {event}", lambda: None, event, recorded + 1))
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        assert flags == 0
        self.put(stream, Work(f"await {event}", lambda: None, event, self.events[event][0]))
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> Any:
        self.log.append(f"wait for event {event}")
        recording = self.events[event][0]
        self._go_on(lambda: self.events[event][1] >= recording)
        return (OK,)

    def put(self, stream: int, work: Work) -> None:
        assert self.recording is None or self.recording[0] != stream, "only kernels may be captured"
        self.log.append(f"{work.what} in {stream}")
        self.streams[stream].append(work)

    def _go_on(self, is_reached: Callable[[], bool]) -> None:
        """Does work until the host has what it waits for."""
        while not is_reached():
            ready = [stream for stream, queue in self.streams.items() if queue and self._may_start(queue[0])]
            assert ready, f"streams wait for each other: {self.streams}"
            preferred = [stream for stream in ready if stream in self._first]
            stream = self._random.choice(preferred or ready)
            work = self.streams[stream].popleft()
            self.done.append(f"{work.what} in {stream}")
            work.do()
            if work.what.startswith("record"):
                self.events[work.event] = (self.events[work.event][0], work.recording)

    def _may_start(self, work: Work) -> bool:
        return not work.what.startswith("await") or self.events[work.event][1] >= work.recording

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> Any:
        inward = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        # Memory of the host that is not pinned may be copied from, and must live until it was.
        for address in (to,) if inward else (to, source):
            assert any(
                start <= address and address + size <= start + len(block)
                for start, block in self.memory.items()
            ), "outside of any memory"
        if inward:
            self.copied.append(size)
        what = "copy in" if inward else "copy out"
        self.put(stream, Work(what, lambda: void(ctypes.memmove(to, source, size))))
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        self.recording = (stream, [])
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        assert self.recording is not None
        recorded, self.recording = self.recording[1], None
        return OK, recorded

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> Any:
        key = id(graph)
        self.graphs[key] = graph
        return OK, key

    def cudaGraphDestroy(self, graph: list[Any]) -> Any:
        return (OK,)

    def cudaGraphExecDestroy(self, key: int) -> Any:
        assert not any(key in work.reads for queue in self.streams.values() for work in queue), (
            "it is running"
        )
        del self.graphs[key]
        return (OK,)

    def cudaGraphLaunch(self, key: int, stream: int) -> Any:
        self.launched += 1
        for work in self.graphs[key]:
            self.put(stream, Work("compute", work, reads=(key,)))
        return (OK,)

    def cudaGetErrorString(self, code: Any) -> Any:
        return OK, b"simulated"


def void(_: object) -> None:
    """Takes what a function returns that is called for its effect."""


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
        cuda = self.engine.cuda
        assert stream in cuda.streams
        assert self.scratch >= self.engine.get_device_memory_size_for_profile_v2(self.profile or 0)
        with cuda.lock:
            if cuda.recording is not None and cuda.recording[0] == stream:
                cuda.recording[1].append(self._compute)
            else:
                cuda.put(stream, Work("compute", self._compute))
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
