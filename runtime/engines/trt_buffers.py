"""The memory of one batch on its way through a GPU, and the streams it goes by.

Inputs are copied to the device on one stream, computed on another, and outputs come back on a third, since a
GPU copies in both directions while it computes. Events order them: a computation waits for its own inputs, a
copy of outputs for its own computation. Behind that copy in one stream, the next batch's inputs would wait
too, hence a copy stream for each direction.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import KEPT, PAST
from ..errors import EngineError
from .cuda import Cuda, host_array
from .cuda_graphs import Shape, shape_of
from .table import Arrays

FEATURES = "features"
"""The input whose rows belong to the whole batch."""
_NO_HOST = np.empty(0, np.uint8)
_ALIGNMENT = 256


class Memory:
    """What a session has allocated on the device and in pinned memory of the host, released together."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._device: list[int] = []
        self._pinned: list[int] = []

    def device(self, size: int) -> int:
        # cudaMalloc aligns to 256 bytes, as contexts need.
        address = int(self._cuda("cudaMalloc", max(size, _ALIGNMENT)))
        self._device.append(address)
        return address

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """[size] bytes that the device copies from and to while the host goes on."""
        address = int(self._cuda("cudaHostAlloc", max(size, 1), 0))
        self._pinned.append(address)
        return host_array(address, size)

    def release(self) -> None:
        for address in self._device:
            self._cuda("cudaFree", address)
        for address in self._pinned:
            self._cuda("cudaFreeHost", address)
        self._device, self._pinned = [], []


class Streams:
    """Three streams of one session: `inward`, `compute` and `outward`."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._opened: list[Any] = []
        self._events: list[Any] = []
        self.inward, self.compute, self.outward = (self._stream() for _ in range(3))

    def _stream(self) -> Any:
        stream = self._cuda("cudaStreamCreateWithFlags", self._cuda.api.cudaStreamNonBlocking)
        self._opened.append(stream)
        return stream

    def event(self) -> Any:
        event = self._cuda("cudaEventCreateWithFlags", self._cuda.api.cudaEventDisableTiming)
        self._events.append(event)
        return event

    def then(self, before: Any, event: Any, behind: Any) -> None:
        """What is put into `behind` from now on starts when all that is in `before` has ended."""
        self._cuda("cudaEventRecord", event, before)
        self._cuda("cudaStreamWaitEvent", behind, event, 0)

    def wait(self) -> None:
        """Until all that was put into them has ended."""
        for stream in self._opened:
            self._cuda("cudaStreamSynchronize", stream)

    def close(self) -> None:
        self.wait()
        for event in self._events:
            self._cuda("cudaEventDestroy", event)
        for stream in self._opened:
            self._cuda("cudaStreamDestroy", stream)
        self._opened, self._events = [], []


@dataclass(frozen=True, slots=True)
class Place:
    """An input or output of an engine, of the largest shape of any profile."""

    name: str
    dtype: np.dtype[Any]
    axes: tuple[str | int, ...]
    """Those of the manifest."""
    is_input: bool
    bytes: int

    def shape(self, shape: Shape) -> tuple[int, ...]:
        return shape_of(self.axes, shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """The memory of a place in one set of buffers."""

    place: Place
    device: int
    """Its address on the device, which captured graphs keep."""
    host: NDArray[np.uint8]
    """Pinned; empty for a prefix, which is copied from where it is kept."""

    def view(self, of: Shape) -> NDArray[Any]:
        """The pinned memory as an array of this batch's shape."""
        shape = self.place.shape(of)
        return self.host[: math.prod(shape) * self.place.dtype.itemsize].view(self.place.dtype).reshape(shape)


class Buffers:
    """One set of buffers: while a batch is in it, the next one is copied into another set.

    Args:
        number: names the set. The captured graphs of a set have its addresses.
    """

    def __init__(
        self, number: int, places: Iterable[Place], cuda: Cuda, memory: Memory, streams: Streams
    ) -> None:
        self.number = number
        self._cuda, self._streams = cuda, streams
        tensors = [
            Tensor(
                place,
                memory.device(place.bytes),
                _NO_HOST if place.name == PAST else memory.pinned(place.bytes),
            )
            for place in places
        ]
        self.inputs = {tensor.place.name: tensor for tensor in tensors if tensor.place.is_input}
        self.outputs = {tensor.place.name: tensor for tensor in tensors if not tensor.place.is_input}
        self._filled, self._computed, self._done = (streams.event() for _ in range(3))
        self._past: NDArray[Any] | None = None
        """The prefix of the batch, until it is computed."""
        self._sent: weakref.ref[NDArray[Any]] | None = None
        """The prefix that the device has, if it cannot change."""

    def fill(self, inputs: Arrays, shape: Shape, pad_id: int) -> None:
        """Writes a batch into the pinned memory, padded to `shape`. No copy may be on its way."""
        for name, tensor in self.inputs.items():
            if name == PAST:
                self._past = np.ascontiguousarray(inputs[PAST], tensor.place.dtype)
                continue
            fill(
                tensor.view(shape),
                inputs[name],
                pad_id if name == "input_ids" else 0,
                repeats=tensor.place.axes[0] == "batch",
            )

    def send(self, shape: Shape) -> None:
        """Copies the inputs to the device. What is computed from now on waits for them."""
        for tensor in self.inputs.values():
            if self._past is not None and tensor.place.name == PAST:
                self._send_past(self._past, tensor.device)
                continue
            view = tensor.view(shape)
            self._copy(tensor.device, view.ctypes.data, view.nbytes, "HostToDevice", self._streams.inward)
        self._streams.then(self._streams.inward, self._filled, self._streams.compute)

    def _send_past(self, past: NDArray[Any], device: int) -> None:
        """Copies a prefix to the device, unless it is there since the last batch. An empty one replaces
        none."""
        if not past.size or (self._sent is not None and self._sent() is past):
            return
        self._sent = None
        self._copy(device, past.ctypes.data, past.nbytes, "HostToDevice", self._streams.inward)
        if not past.flags.writeable:
            self._sent = weakref.ref(past)

    def fetch(self, outputs: Sequence[str], shape: Shape) -> None:
        """Copies outputs back when what is being computed has ended."""
        self._streams.then(self._streams.compute, self._computed, self._streams.outward)
        for name in outputs:
            tensor = self.outputs[name]
            view = tensor.view(shape)
            self._copy(view.ctypes.data, tensor.device, view.nbytes, "DeviceToHost", self._streams.outward)
        self._cuda("cudaEventRecord", self._done, self._streams.outward)

    def answer(self, outputs: Sequence[str], shape: Shape, kept: Shape) -> list[NDArray[np.float32]]:
        """Waits for the outputs, and returns them without the padding around `kept`."""
        self._cuda("cudaEventSynchronize", self._done)
        self._past = None
        arrays: list[NDArray[np.float32]] = []
        for name in outputs:
            tensor = self.outputs[name]
            rows = tensor.view(shape)[tuple(map(slice, tensor.place.shape(kept)))]
            # A copy, since another batch writes to the same pinned memory.
            arrays.append(np.array(rows, dtype=np.float32))
        return arrays

    def _copy(self, target: int, source: int, size: int, way: str, stream: Any) -> None:
        if not size:
            return
        kind = getattr(self._cuda.api.cudaMemcpyKind, f"cudaMemcpy{way}")
        self._cuda("cudaMemcpyAsync", target, source, size, kind, stream)


def extent(inputs: Arrays, axes: Mapping[str, Sequence[str | int]]) -> tuple[int, int]:
    """(rows, width) of a batch: its texts and their tokens, or pictures and their patches. Pictures of one
    size have the width 1."""
    rows, width = 0, 1
    for name, of in axes.items():
        for axis, size in zip(of, inputs[name].shape, strict=True):
            rows = size if axis == "batch" else rows
            width = size if axis in ("tokens", "patches") else width
    return rows, width


def prefix_of(inputs: Arrays) -> tuple[int, int]:
    """(past, kept): the tokens of a batch's prefix, and those whose keys and values it returns."""
    past = inputs[PAST].shape[2] if PAST in inputs else 0
    return past, len(inputs[KEPT]) if KEPT in inputs else 0


def part(inputs: Arrays, start: int, most: int) -> Arrays:
    """`most` rows of a batch from `start` on, with the features that they read and their own index, and with
    the whole prefix."""
    rows = {
        name: array if name in (PAST, KEPT) else array[start : start + most]
        for name, array in inputs.items()
        if name != FEATURES
    }
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


def quietly(wait: Callable[[], None]) -> None:
    """Waits behind an error that is already on its way to the caller, and that a broken device repeats."""
    try:
        wait()
    except EngineError:
        return
