"""The libraries that an extra of the distribution installs, and the sentence for a
command that misses one."""

from __future__ import annotations

import importlib.util

from .errors import EngineError

MODULES: dict[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "serve": ("starlette", "uvicorn", "orjson", "prometheus_client", "httptools", "yaml", "pydantic"),
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
"""extra -> top-level modules that its command cannot do without."""


def require(extra: str) -> None:
    """Raises EngineError that names what is missing, before any work is done."""
    if missing := [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]:
        raise _missing(missing, extra)


def missing(error: ModuleNotFoundError, extra: str) -> EngineError | None:
    """The error to tell for a module that was not found; None for one of our own.
    `extra` is that of the command."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "poolrt"):
        return None
    own = [known for known, modules in MODULES.items() if name in modules]
    return _missing([name], extra if extra in own or not own else own[0])


def _missing(names: list[str], extra: str) -> EngineError:
    are = "which is not installed" if len(names) == 1 else "which are not installed"
    return EngineError(f"needs {', '.join(names)}, {are}: pip install 'poolrt[{extra}]'")
