"""The version of poolrt itself."""

from __future__ import annotations

import functools
import importlib.metadata
import tomllib
from pathlib import Path


@functools.cache
def version() -> str:
    """The installed version; in a bare checkout the one of its pyproject.toml."""
    try:
        return importlib.metadata.version("poolrt")
    except importlib.metadata.PackageNotFoundError:
        with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
            return tomllib.load(file)["project"]["version"]
