"""Pooling models made a product. What is in here: `poolrt.runtime` runs artifacts, `poolrt.exporter` makes
them, `poolrt.serve` serves them over HTTP; `python -m poolrt` is the command."""

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
        """The version, and the names of `poolrt.runtime`, whose import line then is vLLM's with
        the package's name changed."""
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                return version("poolrt")
            except PackageNotFoundError:
                return "0+checkout"
        if not name.startswith("_"):
            runtime = importlib.import_module(f"{__name__}.runtime")
            if name in runtime.__all__:
                return getattr(runtime, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
