"""Compiles a graph with TensorRT-RTX, which needs no GPU for it, or with TensorRT, which does: one code path.

Precision is read from the graph (strong typing), never from builder flags, which TensorRT 11 has no more: a
tool that sets them gets fp32 without a warning. Shapes come from `profiles`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..runtime import machine
from ..runtime.artifact.images import Images
from ..runtime.artifact.manifest import Backend, Engine, Graph, GraphRole, Manifest, Precision
from ..runtime.engines import openvino, trt_library
from ..runtime.engines.cuda_graphs import shape_of
from ..runtime.errors import EngineError, InputError
from .graph import rewriting
from .profiles import longest_prefix, shapes_of, sizes

# Precisions of the graph that engines are compiled from, where an artifact has one of them beside fp32.
_LOWERED: tuple[Precision, ...] = ("bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Target:
    """What to prepare for: a backend and, for TensorRT-RTX, a GPU family (None: this machine's)."""

    backend: Backend
    device: str | None = None

    @property
    def compiled(self) -> bool:
        """Whether the artifact gets an engine. OpenVINO compiles the graph where it is opened."""
        return self.backend != "openvino"

    def __str__(self) -> str:
        return self.backend if self.device is None else f"{self.backend}:{self.device}"


def compilable(manifest: Manifest, role: GraphRole = "text") -> Graph:
    """Returns the graph of a role that engines are compiled from: the lowered one where there are two.

    Raises ArtifactError where there is none.
    """
    present = {graph.precision for graph in manifest.graphs if graph.role == role}
    lowered: list[Precision] = [precision for precision in _LOWERED if precision in present]
    return manifest.graph(role, lowered[0] if lowered else "fp32")


def targets(texts: Sequence[str]) -> list[Target]:
    """Reads `onnx`, `openvino`, `tensorrt-rtx`, `tensorrt-rtx:sm89,sm120` and `tensorrt`; `onnx` adds no
    target, because every artifact has its graph. Raises InputError."""
    parsed: list[Target] = []
    for text in texts:
        name, _, devices = text.partition(":")
        if name == "onnx" and not devices:
            continue
        if name in ("openvino", "tensorrt") and not devices:
            parsed.append(Target("openvino" if name == "openvino" else "tensorrt"))
        elif name == "tensorrt-rtx":
            names = (
                [device.strip().lower().replace("sm_", "sm") for device in devices.split(",")]
                if devices
                else [None]
            )
            bad = [
                device
                for device in names
                if device is not None and not (device.startswith("sm") and device[2:].isdigit())
            ]
            if bad:
                raise InputError(f"target {text!r}: {bad[0]!r} is not a GPU family like sm89", field="target")
            parsed += [Target("tensorrt-rtx", device) for device in names]
        else:
            raise InputError(
                f"target {text!r}: expected onnx, openvino, tensorrt-rtx, tensorrt-rtx:sm89,sm120 "
                "or tensorrt",
                field="target",
            )
    return list(dict.fromkeys(parsed))


def check(target: Target) -> Target:
    """Returns the target with its device filled in.

    Raises EngineError, before any work is done, if it cannot be compiled on this machine.
    """
    if target.backend == "openvino":
        openvino.version()
        return target
    gpus = machine.gpus()
    if target.backend == "tensorrt" and not gpus:
        raise EngineError(
            "target tensorrt: compiling with TensorRT needs an NVIDIA GPU and its driver, and this machine "
            "shows none; run this on the GPU machine, or use --target tensorrt-rtx:sm89, "
            "which compiles without one"
        )
    trt = trt_library.library(target.backend)
    if target.backend == "tensorrt":
        return dataclasses.replace(target, device=gpus[0].device)
    if target.device is None:
        if not gpus:
            raise EngineError(
                "target tensorrt-rtx: no GPU here to compile for; name a family, as in "
                f"tensorrt-rtx:{families(trt)[-1]}"
            )
        return dataclasses.replace(target, device=gpus[0].device)
    if target.device not in families(trt) and target.device not in {gpu.device for gpu in gpus}:
        raise EngineError(
            f"target {target}: tensorrt-rtx {trt.__version__} compiles for "
            f"{', '.join(families(trt))}, not {target.device}"
        )
    return target


def engine_from_onnx(
    folder: Path, graph: Graph, target: Target, *, max_tokens: int, images: Images | None = None
) -> Engine:
    """Compiles `graph` into `folder`/engines/... and returns the manifest's record of it.

    Raises EngineError in the library's own words.
    """
    assert target.device is not None, "check() fills in the device"
    trt = trt_library.library(target.backend)
    log = trt_library.logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    prefixes = longest_prefix(graph, max_tokens) > 0
    with _padded(folder, graph, prefixes=prefixes) as path:
        graph = graph if prefixes else graph.whole()
        parsed = parser.parse_from_file(str(path))
    if not parsed:
        raise EngineError(
            f"{target.backend} does not accept {graph.file}:"
            + "".join(f"\n  {line}" for line in _parser_errors(parser))
        )
    _check_precision(trt, network, graph)
    config, shapes = builder.create_builder_config(), shapes_of(graph, max_tokens, images)
    for shape in shapes:
        profile = builder.create_optimization_profile()
        for tensor in graph.inputs:
            profile.set_shape(tensor.name, *(shape_of(tensor.axes, size) for size in sizes(shape)))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{target.backend} refuses the profile {shape}: {_last(log)}")
    if target.backend == "tensorrt-rtx" and target.device in families(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.device.upper()), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{target} does not compile {graph.file}: {_last(log)}")
    place = f"engines/{target.backend}-{target.device}-{trt.__version__}-{graph.precision}"
    file = f"{place}/{Path(graph.file).stem}.engine"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(memoryview(plan))
    return Engine(
        backend=target.backend,
        file=file,
        graph=graph.file,
        device=target.device,
        version=trt.__version__,
        precision=graph.precision,
        profiles=shapes,
    )


@contextlib.contextmanager
def _padded(folder: Path, graph: Graph, *, prefixes: bool = False) -> Iterator[Path]:
    """Yields the path of the graph without packing, since no profile knows how many tokens a mask has, and
    with or without the inputs and the output of prefixes."""
    if not graph.packed and (prefixes or graph.past is None):
        yield folder / graph.file
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / graph.file
        rewriting.padded_from_onnx(folder / graph.file, path, prefixes=prefixes)
        yield path


def families(trt: ModuleType) -> list[str]:
    """Returns `sm75`, ... `sm120`: the GPU families that the library compiles for without having one."""
    known = getattr(trt, "ComputeCapability", None)
    names = known.__members__ if known is not None else ()
    return sorted((name.lower() for name in names if name.startswith("SM")), key=lambda name: int(name[2:]))


def _flags(trt: ModuleType) -> int:
    # From TensorRT 11 on every network is strongly typed, and the flag may be missing.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> Iterator[str]:
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"{error.node_operator()} {error.node_name()!r}: " if error.node_name() else ""
        yield f"{where}{error.desc().strip()}"


def _check_precision(trt: ModuleType, network: Any, graph: Graph) -> None:
    """Raises EngineError where no product has the graph's precision: the engine would be slow without a
    warning."""
    kinds: dict[Precision, Any] = {
        "fp32": trt.float32,
        "fp16": trt.float16,
        "bf16": trt.bfloat16,
        "int8": trt.int8,
    }
    products = {
        network.get_layer(index).get_output(0).dtype
        for index in range(network.num_layers)
        if network.get_layer(index).type == trt.LayerType.MATRIX_MULTIPLY
    }
    if products and kinds[graph.precision] not in products:
        raise EngineError(
            f"{graph.file}: its products are {', '.join(str(kind) for kind in products)}, "
            f"expected {graph.precision}"
        )


def _last(log: Any) -> str:
    return " | ".join(log.lines[-3:]) or "the library gives no reason"
