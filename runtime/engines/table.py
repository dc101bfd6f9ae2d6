"""The table of backends, and which of an artifact's graphs and engines fits this machine.

To add a backend, name it in `Backend` (artifact/manifest.py), write a file in this folder whose `open`
returns a `Session`, and add its row to `TABLE`. `open` gets (folder, manifest, engine) for a compiled engine,
and (folder, manifest, graph, threads=..., device=..., at_once=...) for a graph. A backend's file imports its
library inside functions only, since most machines have one of these libraries at most.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..artifact.manifest import (
    WEIGHT_ONLY,
    Backend,
    Engine,
    Graph,
    GraphRole,
    Manifest,
    Precision,
    Profile,
)
from ..errors import EngineError

Arrays = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """An opened engine, owned by one worker."""

    @property
    def lanes(self) -> int:
        """How many threads may call `run` at once."""
        ...

    @property
    def backend(self) -> str:
        """`onnxruntime`, `tensorrt-rtx`, ..."""
        ...

    @property
    def profiles(self) -> Sequence[Profile]:
        """Shapes it accepts; empty: any."""
        ...

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        """Runs one batch. Raises EngineError.

        Args:
            inputs: [batch, tokens] of each input of the manifest's graph, by name.
            outputs: names of the graph outputs to compute.
            alone: no other lane has work, so this batch may take the whole machine.

        Returns:
            One float32 array per name in `outputs`: [batch, dim] or [batch, tokens, dim].
        """
        ...

    def close(self) -> None: ...


class Choice(NamedTuple):
    """The graph or the compiled engine that will be opened."""

    backend: Backend
    graph: Graph
    engine: Engine | None = None
    """None: the graph itself, by ONNX Runtime or OpenVINO."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision | None = None
    """Of the products, where the backend computes a graph in another precision than its own."""
    notes: tuple[str, ...] = ()
    """Why compiled engines of the artifact were passed over, and what was measured."""

    @property
    def name(self) -> str:
        """Its name in the manifest's evidence."""
        computed = "" if self.precision is None else f":{self.precision}"
        return self.engine.file if self.engine else f"{self.backend}:{self.graph.file}{computed}"


# backend -> (module, distributions of which one must be installed, extra of poolrt that installs it)
TABLE: dict[Backend, tuple[str, tuple[str, ...], str]] = {
    "onnxruntime": (".ort", ("onnxruntime", "onnxruntime-gpu"), "cpu"),
    "openvino": (".openvino", ("openvino",), "openvino"),
    "tensorrt-rtx": (
        ".trt",
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "tensorrt-rtx",
    ),
    "tensorrt": (".trt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt"),
}


def choose(manifest: Manifest, engine: str = "auto", role: GraphRole = "text") -> Choice:
    """Picks one of the artifact's graphs and engines of a role. Raises EngineError.

    Where `engine` names a file of another role, this role's of the same kind is picked: a compiled engine of
    the same backend, or the graph of the same precision.

    Args:
        engine: `auto` (a compiled engine that fits this machine's GPU, else ONNX Runtime), a backend
        (`onnxruntime`, `onnxruntime-cuda`, `openvino`, `tensorrt-rtx`, ...), a backend with `:FILE` or
        `:PRECISION` behind it, or the file of an engine. `openvino:bf16` computes the fp32 graph in bf16,
        `openvino:int8` the int8 graph.
    """
    engines = [candidate for candidate in manifest.engines if _graph(manifest, candidate.graph).role == role]
    if engine == "auto":
        notes = []
        for candidate in engines:
            misfit = unfit(candidate)
            if misfit is None:
                return Choice(candidate.backend, _graph(manifest, candidate.graph), candidate)
            notes.append(f"{candidate.file}: {misfit}")
        return Choice("onnxruntime", manifest.graph(role), notes=tuple(notes))
    name, _, which = engine.partition(":")
    if name in ("onnxruntime", "onnxruntime-cuda", "cpu", "cuda"):
        device: Literal["cpu", "cuda"] = "cuda" if "cuda" in name else "cpu"
        graph = _form(manifest, _graph_of_role(manifest, which, role), which, device)
        return Choice("onnxruntime", graph, device=device)
    if name == "openvino":
        graph, computed = _openvino(manifest, which, role)
        return Choice("openvino", graph, precision=computed)
    other = next((candidate for candidate in manifest.engines if candidate.file == engine), None)
    if other is not None and other not in engines:
        name = other.backend
    named = [
        candidate
        for candidate in engines
        if name in (candidate.backend, candidate.file) and which in ("", candidate.file, candidate.precision)
    ]
    if not named and other is not None and other not in engines:
        return Choice("onnxruntime", manifest.graph(role))
    if not named:
        offered = [f"onnxruntime:{graph.file}" for graph in manifest.graphs]
        offered += ["openvino"]
        offered += [candidate.file for candidate in manifest.engines]
        raise EngineError(
            f"the artifact has no engine {engine!r}; it has {', '.join(offered)}; "
            "`poolrt build` compiles others"
        )
    misfits = [(candidate, unfit(candidate)) for candidate in named]
    for candidate, misfit in misfits:
        if misfit is None:
            return Choice(candidate.backend, _graph(manifest, candidate.graph), candidate)
    raise EngineError(
        "; ".join(f"{candidate.file}: {misfit}" for candidate, misfit in misfits)
        + "; build it here with `poolrt build`, or use engine='onnxruntime'"
    )


def unfit(engine: Engine) -> str | None:
    """Why a compiled engine cannot run on this machine (its device, its library or the library's version);
    None where it can."""
    if engine.backend not in TABLE:
        return f"backend {engine.backend!r} is not one this version runs"
    _, distributions, extra = TABLE[engine.backend]
    installed = machine.version(*distributions)
    if installed is None:
        return f"{distributions[0]} is not installed (pip install 'poolrt[{extra}]')"
    if engine.backend in ("tensorrt", "tensorrt-rtx"):
        devices = [gpu.device for gpu in machine.gpus()]
        if not devices:
            return f"compiled for an NVIDIA {engine.device} GPU, and the driver shows none here"
        if engine.device not in devices:
            return f"compiled for {engine.device}, found {', '.join(devices)}"
        if installed != engine.version:
            return f"compiled with {engine.backend} {engine.version}, installed is {installed}"
    return None


def open(
    folder: Path, manifest: Manifest, choice: Choice, *, threads: int | None = None, at_once: bool = False
) -> Session:
    """Opens the chosen graph or engine. Raises EngineError.

    Args:
        at_once: opens too what would otherwise be opened when it is first needed.
    """
    module = importlib.import_module(TABLE[choice.backend][0], __package__)
    if choice.engine is not None:
        return module.open(folder, manifest, choice.engine)
    more: dict[str, object] = {"at_once": at_once, "threads": threads, "device": choice.device}
    if choice.precision is not None:
        more["precision"] = choice.precision
    return module.open(folder, manifest, choice.graph, **more)


def _graph(manifest: Manifest, which: str) -> Graph:
    for graph in manifest.graphs:
        if which in (graph.file, graph.precision, graph.stored):
            return graph
    known = ", ".join(f"{graph.file} ({graph.stored})" for graph in manifest.graphs)
    raise EngineError(f"the artifact has no graph {which!r}; it has {known}")


def _openvino(manifest: Manifest, which: str, role: GraphRole) -> tuple[Graph, Precision]:
    """The graph that OpenVINO runs, and the precision it computes in, as a precision or a file names them."""
    if which in WEIGHT_ONLY:
        return _graph_of_role(manifest, which, role), "fp32"
    computed = next((precision for precision in get_args(Precision) if precision == which), None)
    if which and computed is None:
        graph = _graph_of_role(manifest, which, role)
        return graph, "int8" if graph.precision == "int8" else "fp32"
    graphs = {graph.precision: graph for graph in reversed(manifest.graphs) if graph.role == role}
    if computed == "int8" and "int8" not in graphs and role == "vision":
        computed = "fp32"  # the text graph alone holds in int8
    if not which and "fp32" not in graphs and "int8" in graphs:
        computed = "int8"
    own = "int8" if computed == "int8" else "fp32"
    if own not in graphs:
        known = ", ".join(f"{graph.file} ({graph.precision})" for graph in manifest.graphs)
        raise EngineError(f"openvino:{which or 'fp32'} takes the {own} graph; the artifact has {known}")
    return graphs[own], computed or "fp32"


def _form(manifest: Manifest, graph: Graph, which: str, device: Literal["cpu", "cuda"]) -> Graph:
    """The form of a bf16 graph that suits a device, unless `which` names a file: processors cast the weights,
    GPUs compute with them."""
    if graph.stored != "bf16" or which not in ("", "bf16"):
        return graph
    forms = [
        form
        for form in manifest.graphs
        if (form.role, form.stored) == (graph.role, "bf16")
        and (form.precision == "fp32") == (device == "cpu")
    ]
    return [*forms, graph][0]


def _graph_of_role(manifest: Manifest, which: str, role: GraphRole) -> Graph:
    """The graph of a role that a file or a precision names; "": the first. Where the file is of another role,
    the graph of its precision, if there is one. Raises EngineError."""
    if not which:
        return manifest.graph(role)
    graph = _graph(manifest, which)
    of_role = [candidate for candidate in manifest.graphs if candidate.role == role]
    alike = [candidate for candidate in of_role if candidate.precision == graph.precision]
    return graph if graph.role == role else [*alike, *of_role, manifest.graph(role)][0]
