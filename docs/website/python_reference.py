"""The Python reference: a directive of mkdocstrings for each public name, whose docstrings it shows."""

from __future__ import annotations

import importlib
from pathlib import Path

import poolrt.runtime

PYTHON = """\
# Python reference

Everything that `from poolrt.runtime import ...` has. The examples in the docstrings are run by the tests.

"""
INTEGRATIONS = """\
# Integrations reference

The modules for other libraries; [how they are used](../integrations.md).

"""
RAY = """\
# Ray reference

What `poolrt.ray` has, [how it is used](../ray.md).

"""


def linked(root: Path) -> None:
    """Makes build/docs/poolrt, the package in the layout in which it is imported, of links."""
    package = root / "build" / "docs" / "poolrt"
    package.mkdir(parents=True, exist_ok=True)
    for area in ("runtime", "exporter", "serve", "package/__init__.py"):
        _link(package / Path(area).name, root / area)


def public() -> str:
    """The page of poolrt.runtime: functions and the model first, then records, then errors."""
    names = [name for name in poolrt.runtime.__all__ if name in poolrt.runtime._HOME]
    errors = importlib.import_module("poolrt.runtime.errors")
    first = ["load", "Model", "LLM", "PoolingParams", "PoolerConfig"]
    last = [name for name in names if hasattr(errors, name)]
    middle = [name for name in names if name not in (*first, *last)]
    return PYTHON + "\n".join(
        f"::: poolrt.runtime.{poolrt.runtime._HOME[name]}.{name}\n" for name in (*first, *middle, *last)
    )


def integrations(root: Path) -> str:
    """The page of poolrt.runtime.integrations: each module."""
    modules = sorted(
        path.stem for path in (root / "runtime" / "integrations").glob("[a-z]*.py") if path.stem != "opening"
    )
    return INTEGRATIONS + "\n".join(f"::: poolrt.runtime.integrations.{module}\n" for module in modules)


def ray() -> str:
    """The page of poolrt.ray: each name where it is defined. No ray is imported for that."""
    module = importlib.import_module("poolrt.ray")
    names = sorted(module.__all__, key=lambda name: (name != "app", name != "build", name))
    return RAY + "\n".join(f"::: {vars(module)[name].__module__}.{name}\n" for name in names)


def _link(place: Path, target: Path) -> None:
    if place.is_symlink():
        place.unlink()
    place.symlink_to(target)
