"""The libraries that each extra of the distribution installs, and the error of a command that lacks one."""

from __future__ import annotations

import importlib.util

from .errors import EngineError

MODULES: dict[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "dataset": ("pyarrow", "filelock"),
    "ray": ("ray", "pyarrow", "filelock"),
    "openvino": ("openvino",),
    "images": ("PIL",),
    "video": ("av", "PIL"),
    "pdf": ("pypdfium2",),
    "hub": ("huggingface_hub", "fsspec", "filelock"),
    "s3": ("s3fs",),
    "serve": ("starlette", "uvicorn", "orjson", "prometheus_client", "httptools", "yaml", "pydantic"),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "export": (
        "torch",
        "transformers",
        "onnx",
        "onnxscript",
        "onnx_ir",
        "safetensors",
        "huggingface_hub",
        "filelock",
    ),
}
"""extra -> modules that its commands need."""


def require(extra: str) -> None:
    """Raises EngineError that names the missing libraries of an extra, before any work is done."""
    if missing := [name for name in MODULES[extra] if not _is_installed(name)]:
        raise _missing(missing, extra)


def has(extra: str) -> bool:
    """Whether all libraries of an extra are installed."""
    return all(map(_is_installed, MODULES[extra]))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def missing(error: ModuleNotFoundError, extra: str) -> EngineError | None:
    """Returns the error that names the extra to install for a module that is missing; None for a module of
    our own, which is a fault.

    Args:
        extra: of the command that ran. It is named where no extra, or this one too, has the module.
    """
    name = (error.name or "").partition(".")[0]
    if name in ("", "poolrt"):
        return None
    own = [
        known
        for known, modules in MODULES.items()
        if name in {module.partition(".")[0] for module in modules}
    ]
    return _missing([name], extra if extra in own or not own else own[0])


def _missing(names: list[str], extra: str) -> EngineError:
    are = "which is not installed" if len(names) == 1 else "which are not installed"
    return EngineError(f"needs {', '.join(names)}, {are}: pip install 'poolrt[{extra}]'")
