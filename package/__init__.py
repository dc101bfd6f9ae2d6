"""Pooling models made a product. What is in here: `poolrt.runtime` runs artifacts, `poolrt.exporter` makes them, `poolrt.serve` serves
them over HTTP; `python -m poolrt` is the command."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
if not (_HERE / "runtime").is_dir():  # a checkout, where the areas are folders beside this one
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> str:
    if name == "__version__":
        import importlib.metadata

        try:
            return importlib.metadata.version("poolrt")
        except importlib.metadata.PackageNotFoundError:
            return "0+checkout"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
