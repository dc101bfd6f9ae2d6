"""The version of poolrt itself."""

from __future__ import annotations

import functools
import importlib.metadata
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


@functools.cache
def version() -> str:
    """Returns the version of the installed distribution, in a bare checkout that of its pyproject.toml.

    It is `unknown` where neither is at hand, as in a copy of the `runtime` folder alone.
    """
    try:
        return importlib.metadata.version("poolrt")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        with _PROJECT.open("rb") as file:
            return tomllib.load(file)["project"]["version"]
    except FileNotFoundError:
        return "unknown"
