"""TensorRT-RTX and TensorRT: their Python APIs are the same, so one file serves both.

Device memory is allocated once, for the largest shape of any profile. All contexts share one scratch memory,
since they compute one after the other. Inputs and outputs have fixed addresses, so that the CUDA graph of a
shape bucket can be replayed and memory stays flat. There are two sets of them: while one batch is computed,
the next one's inputs are copied and the last one's outputs come back.

This file is long because a session releases memory, contexts and captured graphs together.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, PriorityQueue
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Engine, Graph, Manifest, Profile
from ..errors import EngineError
from . import trt_library
from .cuda import Cuda
from .cuda_graphs import LeastRecent, Shape, bucket, choose, shape_of
from .table import Arrays
from .trt_buffers import FEATURES, Buffers, Memory, Place, Streams, extent, part, prefix_of, quietly

GRAPHS = 128
"""Most captured CUDA graphs per session, of both sets of buffers. Each holds a context of a few MB on the
host; device memory is shared."""
DOUBLE_BYTES = 1 << 30
"""Sessions whose inputs and outputs take more than this have them once, and nothing overlaps."""


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
class _Captured:
    context: Any
    graph: Any
    """Executable CUDA graph; None where the context cannot be captured, then it is enqueued each time."""


@dataclass(slots=True)
class _Flight:
    """A batch that is on its way."""

    buffers: Buffers
    shape: Shape
    """Of the bucket."""
    kept: Shape
    """Of the batch."""


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
        self._memory = Memory(cuda)
        self._streams: Streams | None = None
        self._order = threading.Lock()
        """Held while a batch is put into the streams."""
        self._log = trt_library.logger(trt)
        self.graphs: LeastRecent[tuple[int, int, Shape], _Captured] = LeastRecent(graphs, self._release)
        """By set of buffers, profile and bucket."""
        # engine_host_code_allowed stays off: a plan must not bring machine code for the host.
        self._runtime = trt.Runtime(self._log)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{engine.file}: {engine.backend} does not open it: "
                f"{' | '.join(self._log.lines[-3:]) or 'no reason given'}"
            )
        self._check_profiles()
        self._places = [
            self._place(self._engine.get_tensor_name(index)) for index in range(self._engine.num_io_tensors)
        ]
        self._axes = {place.name: place.axes for place in self._places if place.is_input}
        self._outputs = [place.name for place in self._places if not place.is_input]
        self.lanes = 2 if sum(place.bytes for place in self._places) <= DOUBLE_BYTES else 1
        try:
            streams = self._streams = Streams(cuda)
            self._compute = streams.compute
            self._scratch_bytes = max(
                self._engine.get_device_memory_size_for_profile_v2(index)
                for index in range(self._engine.num_optimization_profiles)
            )
            self._scratch = self._memory.device(self._scratch_bytes)
            self._sets = [
                Buffers(number, self._places, cuda, self._memory, streams) for number in range(self.lanes)
            ]
        except BaseException:
            self.close()
            raise
        # The lowest first: the second set's graphs are captured only where batches do overlap.
        self._free: PriorityQueue[int] = PriorityQueue()
        for number in range(self.lanes):
            self._free.put(number)

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
        rows, width = extent(inputs, self._axes)
        past, kept = prefix_of(inputs)
        chosen = choose(rows, width, self.profiles, past=past, returns=kept > 0)
        if chosen is None:
            if past > self._facts.past:
                raise EngineError(
                    f"{self._facts.file}: compiled for prefixes of up to {self._facts.past} tokens, "
                    f"found {past}"
                )
            longest = max(profile.largest[1] for profile in self.profiles)
            what = "patches" if any("patches" in axes for axes in self._axes.values()) else "tokens"
            raise EngineError(f"{self._facts.file}: compiled for up to {longest} {what}, found {width}")
        most = self.profiles[chosen].largest[0]
        flights: deque[_Flight] = deque()
        parts: list[list[NDArray[np.float32]]] = []
        try:
            for start in range(0, rows, most):
                rows_of_part = part(inputs, start, most) if rows > most else inputs
                while (buffers := self._take(wait=not flights)) is None:
                    parts.append(self._land(flights[0], outputs))
                    self._free.put(flights.popleft().buffers.number)
                try:
                    flights.append(self._start(buffers, chosen, rows_of_part, outputs))
                except BaseException:
                    self._recover(buffers)
                    raise
            while flights:
                parts.append(self._land(flights[0], outputs))
                self._free.put(flights.popleft().buffers.number)
        except BaseException:
            for flight in flights:
                self._recover(flight.buffers)
            raise
        return (
            parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        )

    def close(self) -> None:
        if self._streams is not None:
            self._streams.wait()
        self.graphs.clear()
        self._memory.release()
        if self._streams is not None:
            self._streams.close()
        self._streams = self._engine = None

    def _take(self, *, wait: bool) -> Buffers | None:
        """A free set of buffers; None where all are taken and `wait` is false. A thread that has one does not
        wait for another, as two of them would wait for each other."""
        try:
            return self._sets[self._free.get(block=wait)]
        except Empty:
            return None

    def _start(self, buffers: Buffers, index: int, inputs: Arrays, outputs: Sequence[str]) -> _Flight:
        """Puts a batch into the streams."""
        rows, width = extent(inputs, self._axes)
        features = len(inputs[FEATURES]) if FEATURES in inputs else 0
        past, kept = prefix_of(inputs)
        shape = bucket(
            rows,
            width,
            self.profiles[index],
            features=features,
            merged=self._merged,
            past=past,
            returns=kept > 0,
        )
        buffers.fill(inputs, shape, self._pad_id)
        with self._order:
            buffers.send(shape)
            held = self.graphs.get(
                (buffers.number, index, shape), lambda: self._capture(buffers, index, shape)
            )
            if held.graph is not None:
                self._cuda("cudaGraphLaunch", held.graph, self._compute)
            else:
                self._enqueue(held.context)
            buffers.fetch(outputs, shape)
        return _Flight(buffers, shape, shape._replace(rows=rows, width=width, kept=kept))

    def _land(self, flight: _Flight, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        return flight.buffers.answer(outputs, flight.shape, flight.kept)

    def _recover(self, buffers: Buffers) -> None:
        """Frees a set whose batch failed, when no copy of it is on its way."""
        assert self._streams is not None, "the session is closed"
        with self._order:
            quietly(self._streams.wait)
        self._free.put(buffers.number)

    def _capture(self, buffers: Buffers, index: int, shape: Shape) -> _Captured:
        """A context for one exact shape, run once on the batch that was sent, so that its kernels are chosen
        and compiled, then captured."""
        context = self._context()
        self._ok(
            context.set_optimization_profile_async(index, int(self._compute)), "choosing the profile", shape
        )
        for name, tensor in buffers.inputs.items():
            self._ok(context.set_input_shape(name, tensor.place.shape(shape)), f"the shape of {name}", shape)
            self._ok(context.set_tensor_address(name, tensor.device), f"the address of {name}", shape)
        for name, tensor in buffers.outputs.items():
            output_shape, expected = tuple(context.get_tensor_shape(name)), tensor.place.shape(shape)
            assert output_shape == expected, f"{name}: engine answers {output_shape}, expected {expected}"
            self._ok(context.set_tensor_address(name, tensor.device), f"the address of {name}", shape)
        context.set_device_memory(self._scratch, self._scratch_bytes)
        self._enqueue(context)
        self._cuda("cudaStreamSynchronize", self._compute)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._compute)):
            return _Captured(context, None)
        modes = self._cuda.api.cudaStreamCaptureMode
        # Thread-local, since other sessions of this process may allocate on their threads meanwhile.
        self._cuda("cudaStreamBeginCapture", self._compute, modes.cudaStreamCaptureModeThreadLocal)
        try:
            self._enqueue(context)
        finally:
            graph = self._cuda("cudaStreamEndCapture", self._compute)
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
        if not context.execute_async_v3(int(self._compute)):
            raise EngineError(f"{self._facts.file}: running it failed: {' | '.join(self._log.lines[-3:])}")

    def _ok(self, succeeded: bool, what: str, shape: Shape) -> None:
        if not succeeded:
            raise EngineError(
                f"{self._facts.file}: {what} was refused for {shape.rows} x {shape.width}: "
                f"{' | '.join(self._log.lines[-3:])}"
            )

    def _release(self, held: _Captured) -> None:
        # It may be on its way for another thread.
        self._cuda("cudaStreamSynchronize", self._compute)
        if held.graph is not None:
            self._cuda("cudaGraphExecDestroy", held.graph)
        held.graph = held.context = None

    def _place(self, name: str) -> Place:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        recorded = self._recorded.get(name)
        if recorded is None:
            raise EngineError(f"{self._facts.file}: it has a tensor {name!r} that its graph has not")
        largest = max(
            math.prod(
                shape_of(
                    recorded.axes,
                    Shape(
                        *profile.largest,
                        features=math.prod(profile.largest) + 1,
                        past=profile.past,
                        kept=profile.largest[1] if profile.returns_past else 0,
                    ),
                )
            )
            for profile in self._facts.profiles
        )
        is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        return Place(name, dtype, recorded.axes, is_input, largest * dtype.itemsize)

    def _check_profiles(self) -> None:
        count = self._engine.num_optimization_profiles
        if count != len(self._facts.profiles):
            raise EngineError(
                f"{self._facts.file}: it has {count} profiles, the manifest tells {len(self._facts.profiles)}"
            )
