"""OpenVINO: runs the artifact's ONNX graph on the processor, in float32, bf16 or fp16.

A graph that is packed is unpacked here: OpenVINO prepares its kernels anew for every shape, and the number of
packed rows has no end of values. For the same reason rows are padded to a multiple of `STEP`
(docs/decisions/openvino.md).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..artifact import digests
from ..artifact.manifest import Graph, Manifest, Precision, Profile, Tensor
from ..errors import EngineError
from . import blobs, openvino_heads, openvino_windows
from .lanes import MAX_LANES, Later, slots, stored_bytes
from .table import Arrays

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision of the products -> OpenVINO's name. What an int8 graph leaves in float32 is computed in the least
that the processor has."""
CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
"""Precision of the products -> what OpenVINO calls a processor's ability to compute in it."""

STEP = 8
"""Rows are padded to a multiple of this many tokens, so that few shapes exist."""
SHAPES = 1000
"""Prepared kernels that are kept, for each stream. They take a few hundred kB each where shapes vary."""
VARIABLE = ("tokens", "patches")
FORM = 2
"""Raised whenever the same graph is compiled in another form."""

TWICE_BYTES = 512 << 20
"""Graphs up to this size are compiled twice: a stream of one thread per lane, and one of all threads for a
batch that runs alone."""
STREAM_THREADS = 4
"""Of a larger graph, whose streams serve both."""
WEIGHT_SLOTS = 256
"""A batch that runs alone counts once more for each of these slots towards opening the session of all
threads: one text of 2048 tokens takes longer than eight short ones."""


class OpenVinoSession:
    """A graph opened by OpenVINO. See `table.Session`."""

    def __init__(
        self,
        path: Path,
        graph: Graph,
        precision: Precision,
        *,
        digest: str,
        threads: int,
        lanes: int,
        at_once: bool,
    ) -> None:
        self.graph, self.precision, self.threads, self.lanes = graph, precision, threads, lanes
        self._inputs = {tensor.name: tensor for tensor in graph.inputs}
        self._variable = {tensor.name: _variable(tensor) for tensor in graph.outputs}
        compiled, blob = _compiled(path, graph, precision, digest, streams=lanes, threads=threads)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())
        self._mapped = [blob]
        """The library reads weights from these and does not hold them."""

        def whole(windows: bool) -> Any:
            compiled, blob = _compiled(
                path, graph, precision, digest, streams=1, threads=threads, windows=windows
            )
            self._mapped.append(blob)
            return compiled.create_infer_request()

        self._wide: Later[Any] | None = None
        if lanes > 1 and stored_bytes(path, graph) <= TWICE_BYTES:
            self._wide = Later(lambda: whole(windows=False), at_once=at_once)
        self._long: Later[Any] | None = None
        """For texts much longer than the windows of attention."""
        self._long_tokens = openvino_windows.LONG_WINDOWS * graph.window
        self._long_lock = threading.Lock()
        if graph.window and graph.past is None:
            self._long = Later(lambda: whole(windows=True), after=0)

    @property
    def backend(self) -> str:
        return "openvino"

    @property
    def profiles(self) -> Sequence[Profile]:
        return ()

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        widths = [
            array.shape[axis]
            for name, array in inputs.items()
            if (axis := _variable(self._inputs[name])) is not None
        ]
        width = max(widths, default=0)
        padded = {name: self._padded(name, array) for name, array in inputs.items()}
        if self._long is not None and width > self._long_tokens and (long := self._long.get()) is not None:
            with self._long_lock:
                return self._infer(long, padded, outputs, width)
        wide = self._wide.get(1 + slots(inputs) // WEIGHT_SLOTS) if alone and self._wide is not None else None
        if wide is not None:
            return self._infer(wide, padded, outputs, width)
        request = self._requests.get()
        try:
            return self._infer(request, padded, outputs, width)
        finally:
            self._requests.put(request)

    def close(self) -> None:
        for later in (self._wide, self._long):
            if later is not None:
                later.close()
        while not self._requests.empty():
            self._requests.get()
        self._mapped.clear()

    def _infer(
        self, request: Any, inputs: Arrays, outputs: Sequence[str], width: int
    ) -> list[NDArray[np.float32]]:
        try:
            request.infer(inputs, share_inputs=True)
            return [self._output(request, name, width) for name in outputs]
        except Exception as error:
            raise EngineError(f"{self.graph.file}: openvino failed on a batch ({_line(error)})") from error

    def _output(self, request: Any, name: str, width: int) -> NDArray[np.float32]:
        array = request.get_tensor(name).data
        # A copy, because the request's next batch is written into the same memory.
        cut = array[:, :width] if self._variable[name] is not None and array.shape[1] > width else array
        return np.array(cut, np.float32)

    def _padded(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        axis = _variable(self._inputs[name])
        missing = 0 if axis is None else -array.shape[axis] % STEP
        if not missing:
            return np.ascontiguousarray(array)
        return np.pad(array, [(0, missing if place == axis else 0) for place in range(array.ndim)])


def _variable(tensor: Tensor) -> int | None:
    """The axis of a row's length; None where all rows have one size."""
    return next((place for place, axis in enumerate(tensor.axes) if axis in VARIABLE), None)


def _compiled(
    path: Path,
    graph: Graph,
    precision: Precision,
    digest: str,
    *,
    streams: int,
    threads: int,
    windows: bool = False,
) -> tuple[Any, Any]:
    """The compiled graph, and the memory that it is mapped to if it was compiled here before.

    Args:
        windows: whether attention within a window is cut to it.
    """
    core = _core()
    products = HINTS[_rest() if precision == "int8" else precision]
    settings: Mapping[str, Any] = {
        "INFERENCE_PRECISION_HINT": products,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "CPU_RUNTIME_CACHE_CAPACITY": SHAPES,
        # Several models and the server's own threads share the processors.
        "ENABLE_CPU_PINNING": False,
    }
    key = _key(graph, precision, digest, *(["windows"] if windows else []))
    kept = blobs.find(key)
    try:
        if kept is not None:
            tensor = _library().Tensor(kept, shared_memory=True)
            return core.import_model(tensor, "CPU", settings), (tensor, kept)
    except Exception:  # of another build, or cut short: it is made again
        blobs.remove(key)
    try:
        model = core.read_model(str(path))
        names = _unpack(model)
        if windows:
            openvino_windows.cut(model, _library(), names)
        openvino_heads.group(model, _library(), products)
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:
        raise EngineError(
            f"{path.name}: openvino {version()} cannot open the graph ({_line(error)}); use "
            "engine='onnxruntime'"
        ) from None
    blobs.keep(key, compiled.export_model, path.parent)
    return compiled, None


def _key(graph: Graph, precision: Precision, digest: str, *form: str) -> str:
    """The name of a compiled graph among the blobs. Neither streams nor threads are part of what is
    compiled."""
    return blobs.key("openvino", FORM, version(), graph.file, digest, precision, *form)


def blob(folder: Path, manifest: Manifest, graph: Graph, precision: Precision | None) -> str:
    """The name under which `open` keeps a compiled graph among the blobs."""
    return _key(graph, precision or "fp32", _digest(folder, manifest, graph))


def _digest(folder: Path, manifest: Manifest, graph: Graph) -> str:
    return "".join(_sha256(folder, manifest, name) for name in (graph.file, *graph.external))


def _unpack(model: Any) -> dict[str, tuple[int, int]]:
    """Takes out the nodes that drop padding and put it back; the graph is then the padded one. Attention of
    all texts takes the form of short ones, which the library fuses by itself. Returns the windows of
    attention by the names of their softmaxes."""
    changes, windows = 0, dict[str, tuple[int, int]]()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "If" and node.get_friendly_name().startswith("blocks/"):
            if (window := openvino_windows.of_name(node.get_friendly_name())) is not None:
                ops = node.get_else_body().get_ordered_ops()
                windows |= {op.get_friendly_name(): window for op in ops if op.get_type_name() == "Softmax"}
            _inline(node)
            changes += 1
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Gather" or not _is_packing(node):
            continue
        source = node.input_value(0)
        before = source.get_node()
        if before.get_type_name() == "Reshape" and _is_packing(before):
            source = before.input_value(0)
        gathered = node.output(0)
        results = [use.get_node() for use in gathered.get_target_inputs()]
        names = gathered.get_names()
        gathered.replace(source)
        if any(user.get_type_name() == "Result" for user in results):
            source.get_tensor().set_names(names)
        changes += 1
    if changes:
        model.validate_nodes_and_infer_types()
    return windows


def _inline(choice: Any) -> None:
    """Puts the nodes of an If's second branch in the place of the If."""
    branch, number = choice.get_else_body(), 1
    parameters, results = branch.get_parameters(), branch.get_results()
    for described in choice.get_input_descriptions(number):
        source = choice.input_value(described.input_index)
        parameters[described.body_parameter_index].output(0).replace(source)
    for described in choice.get_output_descriptions(number):
        value = results[described.body_value_index].input_value(0)
        choice.output(described.output_index).replace(value)


def _is_packing(node: Any) -> bool:
    return node.get_friendly_name().startswith("packed/")


def open(
    folder: Path,
    manifest: Manifest,
    graph: Graph,
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    lanes: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    at_once: bool = False,
) -> OpenVinoSession:
    """Opens a graph of an artifact that was checked. Raises EngineError where the library is missing, the
    processor cannot compute in that precision, or the graph cannot be read.

    Args:
        precision: of the products; None: float32.
        threads: None: as many as affinity and cgroup grant this process.
        lanes: None: one per thread, up to MAX_LANES; of a large graph one per STREAM_THREADS threads.
        at_once: opens the session of batches that run alone too, not after the first of them.
    """
    precision = precision or "fp32"
    if (problem := unable(graph, precision)) is not None:
        raise EngineError(f"{graph.file}: {problem}")
    threads = threads or machine.cpus()
    path = folder / graph.file
    if lanes is None:
        small = stored_bytes(path, graph) <= TWICE_BYTES
        lanes = min(MAX_LANES, threads if small else -(-threads // STREAM_THREADS))
    digest = _digest(folder, manifest, graph)
    return OpenVinoSession(
        path, graph, precision, digest=digest, threads=threads, lanes=lanes, at_once=at_once
    )


def _sha256(folder: Path, manifest: Manifest, name: str) -> str:
    """Of a graph's file; an artifact that is being exported has no record of it yet."""
    return manifest.files[name].sha256 if name in manifest.files else digests.sha256(folder / name)


def unable(graph: Graph, precision: Precision) -> str | None:
    """Why this machine's OpenVINO cannot run a graph in a precision; None where it can. Raises EngineError
    where OpenVINO is not installed."""
    if graph.precision == "int8" and not graph.static_scales:
        return (
            "openvino does not run products whose activations are quantised while they run; use "
            "engine='onnxruntime:int8'"
        )
    if graph.precision == "int8":
        return None if precision == "int8" else f"openvino computes an int8 graph in int8, not in {precision}"
    if graph.precision != "fp32":
        return f"openvino takes the fp32 graph, and computes in {graph.precision} if it is told so; name that"
    if precision not in HINTS:
        return f"openvino computes a fp32 graph in {', '.join(HINTS)}, not in {precision}"
    if not able(precision):
        return f"this processor has no {precision} products; use openvino:fp32"
    return None


def _rest() -> Precision:
    """What is beside the integers of an int8 graph."""
    if able("bf16"):
        return "bf16"
    return "fp16" if able("fp16") and machine.is_arm() else "fp32"


def able(precision: Precision) -> bool:
    """Whether this processor has products in a precision."""
    return CAPABILITIES.get(precision) in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def version() -> str:
    """OpenVINO's version with the number of its build."""
    return str(_library().get_version())


@cache
def _core() -> Any:
    return _library().Core()


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"openvino cannot be imported ({_line(error)}); pip install 'poolrt[openvino]'"
        ) from None
    return openvino


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
