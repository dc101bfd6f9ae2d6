"""ONNX Runtime: runs the artifact's ONNX graph itself, on the processor or through the CUDA provider."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..artifact.manifest import Graph, Manifest, Profile
from ..errors import EngineError
from .lanes import MAX_LANES, TWICE_BYTES, WIDE_SLOTS, Later, slots, stored_bytes
from .table import Arrays

Device = Literal["cpu", "cuda"]

# Fusions whose kernels are slow on processors: LayerNormalization and Gelu, which they replace, are
# vectorised.
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]

# bf16 weights are widened to float32 once, when the graph is opened, where that takes at most this share of
# the free memory. Else they stay as they are and are widened at each use (docs/decisions/bf16.md).
WIDENED_SHARE = 0.75

# The arena keeps the blocks of the largest batch that it ever held. Giving them back costs a few percent of a
# run, so it happens only after batches of more slots than this, which is beyond the usual budget (measured in
# docs/decisions/memory.md).
SHRINK_SLOTS = 4096


# Weights beyond this size are at first used as they lie in their file. To arrange them for the processor
# takes a second per GB, so a session that does it is opened behind the first batch, and takes over
# (docs/decisions/cold-start.md).
ARRANGED_BYTES = 512 << 20
PLAIN = {"session.disable_prepacking": "1"}


class OrtSession:
    """A graph opened by ONNX Runtime. See `table.Session`."""

    def __init__(
        self, path: Path, graph: Graph, *, device: Device, threads: int, lanes: int, at_once: bool
    ) -> None:
        ort = library()
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            if "CUDAExecutionProvider" not in ort.get_available_providers():
                raise EngineError(
                    "onnxruntime has no CUDA provider here; uninstall onnxruntime, then pip install "
                    "'poolrt[gpu]', or load with engine='onnxruntime'"
                )
            # By default the arena doubles whenever it grows, which wastes memory where shapes vary.
            providers.insert(0, ("CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}))
        self.lanes = lanes
        size = _bytes(path, graph)
        disabled = [*SLOW_FUSIONS, *([] if _fits_widened(graph, size) else ["ConstantFolding"])]
        small = lanes > 1 and size <= TWICE_BYTES
        share = threads // lanes if small else threads
        is_plain = not at_once and device == "cpu" and graph.stored == "fp32" and size > ARRANGED_BYTES
        self._session: Any = _opened(ort, path, providers, share, disabled, PLAIN if is_plain else {})
        self._arranged: Later[Any] | None = None
        if is_plain:
            self._arranged = Later(lambda: _opened(ort, path, providers, share, disabled), after=1)
        self._wide: Later[Any] | None = None
        if small:
            self._wide = Later(lambda: _opened(ort, path, providers, threads, disabled), at_once=at_once)
        self.providers: list[str] = self._session.get_providers()
        if device == "cuda" and self.providers[0] != "CUDAExecutionProvider":
            raise EngineError(
                "onnxruntime fell back from CUDA to the processor; its own log says why; check "
                "driver and CUDA libraries"
            )
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

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        size = slots(inputs)
        options = self._shrinking if size > SHRINK_SLOTS else self._plain
        if self._arranged is not None and (arranged := self._arranged.get()) is not None:
            self._session, self._arranged = arranged, None
        session = self._session
        if alone and self._wide is not None and size >= WIDE_SLOTS:
            session = self._wide.get() or session
        try:
            return session.run(list(outputs), dict(inputs), options)
        except Exception as error:
            raise EngineError(f"{self.graph.file}: onnxruntime failed on a batch ({_line(error)})") from error

    def close(self) -> None:
        for later in (self._arranged, self._wide):
            if later is not None:
                later.close()
        self._session = self._arranged = self._wide = None


def _opened(
    ort: Any,
    path: Path,
    providers: Sequence[Any],
    threads: int,
    disabled: Sequence[str],
    entries: Mapping[str, str] = {},
) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory pattern is planned for every input shape and kept for ever, so with free shapes memory would
    # grow.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Threads that spin between two runs take the processor from the tokenizer and from other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # the library's exceptions share no base class
        raise EngineError(
            f"{path.name}: onnxruntime {ort.__version__} cannot open the graph ({_line(error)})"
        ) from None


def _bytes(path: Path, graph: Graph) -> int:
    """The memory that the weights take."""
    return stored_bytes(path, graph) * (2 if graph.weights == "bf16" else 1)


def _fits_widened(graph: Graph, size: int) -> bool:
    """Whether the weights may be held in the graph's own precision."""
    free = machine.free_bytes()
    return graph.weights != "bf16" or free is None or size <= WIDENED_SHARE * free


def open(
    folder: Path,
    manifest: Manifest,
    graph: Graph,
    *,
    threads: int | None = None,
    device: Device = "cpu",
    lanes: int | None = None,
    at_once: bool = False,
) -> OrtSession:
    """Opens a graph of an artifact that was checked. Raises EngineError where the library is missing or
    cannot read the graph.

    Args:
        threads: None: as many as affinity and cgroup grant this process.
        lanes: None: one per thread, up to MAX_LANES; one on a GPU.
        at_once: opens everything now: the session of batches that run alone, and arranged weights.
    """
    if graph.precision == "bf16" and device == "cpu":
        beside = any(other.role == graph.role and other.precision != "bf16" for other in manifest.graphs)
        advice = "use engine='onnxruntime', which takes the graph beside it" if beside else "export it again"
        raise EngineError(
            f"{graph.file}: onnxruntime has no bf16 on processors; {advice}, or compile an engine where the "
            "GPU is (`poolrt build ARTIFACT --target tensorrt-rtx`)"
        )
    threads = threads or machine.cpus()
    if lanes is None:
        lanes = min(threads, MAX_LANES) if device == "cpu" else 1
    return OrtSession(
        folder / graph.file, graph, device=device, threads=threads, lanes=lanes, at_once=at_once
    )


def library() -> Any:
    """The module onnxruntime, which sends nothing home unless ORT_DISABLE_TELEMETRY=0 allows it.

    Its official builds since 1.29 write an identifier of the machine and report models and runs to Microsoft.
    The variable is read when the library is loaded (docs/decisions/telemetry.md).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({_line(error)}); pip install 'poolrt[cpu]', "
            "or 'poolrt[gpu]' with CUDA"
        ) from None
    return onnxruntime


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
