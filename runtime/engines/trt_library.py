"""TensorRT's Python library: importing it, its log, and whether a compiled engine fits it and the GPU.

It is imported only when an engine is compiled or opened.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from ..artifact.manifest import Engine
from ..errors import EngineError

# Import names of each backend: the metapackage's first, then the bindings' own, which are also installed
# alone.
LIBRARIES = {
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
}


def library(backend: str) -> ModuleType:
    """The engine library of a backend. Raises EngineError naming the extra to install."""
    for name in LIBRARIES[backend]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, f"{name}_libs"):
                raise EngineError(
                    f"{name} is installed but {error.name} is missing; pip install 'poolrt[{backend}]'"
                ) from error
        except (ImportError, OSError) as error:  # a shared library that does not load
            raise EngineError(f"{name} is installed but does not load: {error}") from error
    raise EngineError(f"this needs {backend}, which is not installed; pip install 'poolrt[{backend}]'")


def logger(trt: ModuleType) -> Any:
    """A logger that keeps the library's warnings and errors in `lines`, in order, and prints nothing."""

    class Kept(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING):
                self.lines.append(msg.strip())

    return Kept()


def mismatch(engine: Engine, *, device: str | None, version: str) -> str | None:
    """Why an engine cannot run on this GPU and with this library, and what to do; None where it can. `device`
    is the GPU's `sm89` or the like; None without a GPU."""
    differing = []
    if device is None:
        differing.append("no NVIDIA GPU (or its driver is too old) on this machine")
    elif device != engine.device:
        differing.append(f"compiled for {engine.device}, this GPU is {device}")
    # A plan runs only with the release that built it, as ours are not built version-compatible.
    if version != engine.version:
        differing.append(f"compiled by {engine.backend} {engine.version}, installed is {version}")
    if not differing:
        return None
    command = (
        "poolrt build ARTIFACT --target "
        f"{engine.backend}{f':{device}' if device and engine.backend == 'tensorrt-rtx' else ''}"
    )
    return (
        f"{engine.file}: {' and '.join(differing)}; compile it for this machine with `{command}`, "
        f"or run {engine.graph} with engine='onnxruntime'"
    )
