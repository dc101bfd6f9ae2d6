"""What is worked out once per machine and kept for the next start: compiled graphs, and which engine is
fastest.

It lies in poolrt's cache folder (runtime/cache_folder.py). The names are hashes of everything that the
contents depend on, the processor included, so nothing in it becomes wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import cache_folder, machine

MOST_BYTES = 8 << 30
"""The oldest go when the folder holds more."""


def key(*parts: object) -> str:
    """A name that depends on the parts and on this processor."""
    return hashlib.sha256(json.dumps([machine.processor(), *map(str, parts)]).encode()).hexdigest()[:32]


def find(name: str) -> NDArray[np.uint8] | None:
    """A compiled graph, mapped from its file; None where it is not there."""
    home = cache_folder.folder()
    path = None if home is None else home / f"{name}.blob"
    try:
        if path is None or not path.stat().st_size:
            return None
        os.utime(path)
        # Mapped privately: the library asks for memory that it could write to.
        return np.memmap(path, np.uint8, "c")
    except OSError:
        return None


def keep(name: str, export: Callable[[], Any], folder: Path | None = None) -> None:
    """Keeps a compiled graph, if there is room. `poolrt prune` removes it when its artifact's `folder` is
    gone."""
    home = cache_folder.folder()
    if home is None:
        return
    with contextlib.suppress(OSError, MemoryError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache_folder.write(home / f"{name}.blob", export().getbuffer())
        if folder is not None:
            cache_folder.remember(f"{cache_folder.OF}{name}", {cache_folder.ABOUT: str(folder.resolve())})
        _bound(home)


def remove(name: str) -> None:
    home = cache_folder.folder()
    if home is not None:
        with contextlib.suppress(OSError):
            (home / f"{name}.blob").unlink(missing_ok=True)


def _bound(home: Path) -> None:
    """Removes the blobs that were used longest ago until MOST_BYTES are left."""
    states = sorted(((path.stat(), path) for path in home.glob("*.blob")), key=lambda pair: -pair[0].st_mtime)
    total = 0
    for state, path in states:
        total += state.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
