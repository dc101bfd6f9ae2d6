"""Pooling models made a product: `poolrt.exporter` makes artifacts of checkpoints, `poolrt.runtime` runs
them, `poolrt.serve` serves them over HTTP. `python -m poolrt` is the command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).parent
if not (_HERE / "runtime").is_dir():  # a checkout, where the areas are folders beside this one
    __path__.append(str(_HERE.parent))

if TYPE_CHECKING:
    from poolrt.runtime import *  # noqa: F403

    __version__: str
else:  # hidden from type checkers, which would otherwise accept any name

    def __getattr__(name: str) -> Any:
        """The version, and every public name of `poolrt.runtime`, so that a script of vLLM ports by the name
        of the package in its import line."""
        if name == "__version__":
            return importlib.import_module(f"{__name__}.runtime.version").version()
        if not name.startswith("_"):
            runtime = importlib.import_module(f"{__name__}.runtime")
            if name in runtime.__all__:
                return getattr(runtime, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
