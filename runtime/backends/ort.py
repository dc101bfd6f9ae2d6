"""ONNX Runtime: runs the artifact's ONNX graph itself, on the processor or through the CUDA provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..errors import EngineError
from ..manifest import Graph, Manifest, Profile
from . import Arrays

Device = Literal["cpu", "cuda"]

# The arena keeps the blocks of the largest batch it ever saw. Giving them back costs a few percent of a run, so only after batches of
# this many slots, which are beyond the usual budget (docs/decisions/memory.md has the measurements).
SHRINK_SLOTS = 4096


class OrtSession:
    def __init__(self, path: Path, graph: Graph, *, device: Device, threads: int) -> None:
        ort = _library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Memory patterns are planned per input shape and kept for ever; with free shapes that only grows.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # Spinning threads take the processor from the tokenizer and from other models between two runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            if "CUDAExecutionProvider" not in ort.get_available_providers():
                raise EngineError(
                    "onnxruntime has no CUDA provider here; uninstall onnxruntime, then pip install 'poolrt[gpu]', "
                    "or load with engine='onnxruntime'"
                )
            # Without this the arena doubles on each growth, and shapes vary.
            providers.insert(0, ("CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}))
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the library's exceptions share no base class
            raise EngineError(f"{path.name}: onnxruntime {ort.__version__} cannot open the graph ({_line(error)})") from None
        self.providers: list[str] = self._session.get_providers()
        if device == "cuda" and self.providers[0] != "CUDAExecutionProvider":
            raise EngineError("onnxruntime fell back from CUDA to the processor; its own log says why; check driver and CUDA libraries")
        self.threads = threads
        self.graph = graph
        self._plain = ort.RunOptions()
        self._shrinking = ort.RunOptions()
        arenas = "cpu:0" if device == "cpu" else "cpu:0;gpu:0"
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)

    @property
    def backend(self) -> str:
        return "onnxruntime"

    @property
    def profiles(self) -> Sequence[Profile]:
        return ()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        slots = max((array.size for array in inputs.values()), default=0)
        options = self._shrinking if slots > SHRINK_SLOTS else self._plain
        try:
            return self._session.run(list(outputs), dict(inputs), options)
        except Exception as error:
            raise EngineError(f"{self.graph.file}: onnxruntime failed on a batch ({_line(error)})") from error

    def close(self) -> None:
        self._session = None


def open(folder: Path, manifest: Manifest, graph: Graph, *, threads: int | None = None, device: Device = "cpu") -> OrtSession:
    """Opens a graph of an artifact that was checked. Raises EngineError when the library is missing or cannot read the graph.

    `threads` None: as many as this process may use, by its affinity and cgroup, not by the host's processors.
    """
    if graph.precision == "bf16" and device == "cpu":
        raise EngineError(
            f"{graph.file}: onnxruntime has no bf16 on processors; compile an engine where the GPU is "
            "(`poolrt build ARTIFACT --target tensorrt-rtx`), or export with --precision fp16"
        )
    return OrtSession(folder / graph.file, graph, device=device, threads=threads or machine.cpus())


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({_line(error)}); pip install 'poolrt[cpu]', or 'poolrt[gpu]' with CUDA"
        ) from None
    return onnxruntime


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
