"""Engine libraries, one file each, behind one protocol."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..artifact.manifest import Backend, Engine, Graph, Manifest, Profile
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
        """Runs one batch. `inputs` are int64 [batch, tokens], names as in the manifest's graph; `outputs`
        names the graph outputs wanted, answered in that order as float32. `alone`: no other lane has work, so
        this batch may take the whole machine. Raises EngineError."""
        ...

    def close(self) -> None: ...


class Choice(NamedTuple):
    """What will be opened."""

    backend: Backend
    graph: Graph
    engine: Engine | None = None
    """None: the graph itself, by ONNX Runtime."""
    device: Literal["cpu", "cuda"] = "cpu"
    notes: tuple[str, ...] = ()
    """Why compiled engines of the artifact were passed over."""

    @property
    def name(self) -> str:
        """As evidence in the manifest calls it."""
        return self.engine.file if self.engine else f"onnxruntime:{self.graph.file}"


# backend -> (module, distributions of which one must be installed, extra of poolrt that installs it)
TABLE: dict[Backend, tuple[str, tuple[str, ...], str]] = {
    "onnxruntime": (".ort", ("onnxruntime", "onnxruntime-gpu"), "cpu"),
    "tensorrt-rtx": (
        ".trt",
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "tensorrt-rtx",
    ),
    "tensorrt": (".trt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt"),
}


def choose(manifest: Manifest, engine: str = "auto") -> Choice:
    """Which of the artifact's graphs and engines `engine` means.

    `auto`: a compiled engine that fits this machine's GPU, else ONNX Runtime. Else a backend (`onnxruntime`,
    `tensorrt-rtx`, ...), `onnxruntime-cuda`, either with `:FILE` or `:PRECISION` behind it, or the file of
    one engine. Raises EngineError.
    """
    if engine == "auto":
        notes = []
        for candidate in manifest.engines:
            misfit = unfit(candidate)
            if misfit is None:
                return Choice(candidate.backend, _graph(manifest, candidate.graph), candidate)
            notes.append(f"{candidate.file}: {misfit}")
        return Choice("onnxruntime", manifest.graph("text"), notes=tuple(notes))
    name, _, which = engine.partition(":")
    if name in ("onnxruntime", "onnxruntime-cuda", "cpu", "cuda"):
        graph = _graph(manifest, which) if which else manifest.graph("text")
        return Choice("onnxruntime", graph, device="cuda" if "cuda" in name else "cpu")
    fitting = [
        one
        for one in manifest.engines
        if name in (one.backend, one.file) and which in ("", one.file, one.precision)
    ]
    if not fitting:
        offered = [f"onnxruntime:{graph.file}" for graph in manifest.graphs] + [
            one.file for one in manifest.engines
        ]
        raise EngineError(
            f"the artifact has no engine {engine!r}; it has {', '.join(offered)}; "
            "`poolrt build` compiles others"
        )
    reasons = [(one, unfit(one)) for one in fitting]
    for candidate, misfit in reasons:
        if misfit is None:
            return Choice(candidate.backend, _graph(manifest, candidate.graph), candidate)
    raise EngineError(
        "; ".join(f"{one.file}: {misfit}" for one, misfit in reasons)
        + ("; build it here with `poolrt build`, or use engine='onnxruntime'")
    )


def unfit(engine: Engine) -> str | None:
    """What keeps a compiled engine from running here: device, library or its
    version; None when nothing does."""
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


def open(folder: Path, manifest: Manifest, choice: Choice, *, threads: int | None = None) -> Session:
    """Opens what was chosen. Raises EngineError."""
    module = importlib.import_module(TABLE[choice.backend][0], __package__)
    if choice.engine is not None:
        return module.open(folder, manifest, choice.engine)
    return module.open(folder, manifest, choice.graph, threads=threads, device=choice.device)


def _graph(manifest: Manifest, which: str) -> Graph:
    for graph in manifest.graphs:
        if which in (graph.file, graph.precision):
            return graph
    known = ", ".join(f"{graph.file} ({graph.precision})" for graph in manifest.graphs)
    raise EngineError(f"the artifact has no graph {which!r}; it has {known}")
