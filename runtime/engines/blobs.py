"""What is worked out once per machine and kept for the next start: compiled graphs, and which engine is
fastest.

It lies in `engines` of poolrt's cache folder. The names are hashes of everything that the contents depend on,
the processor included, so nothing in it becomes wrong; whatever cannot be read is made again, and a folder
that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import machine

FOLDER = "POOLRT_ENGINE_CACHE"
"""Environment variable: another folder; "": keep nothing."""
MOST_BYTES = 8 << 30
"""The oldest go when the folder holds more."""


def folder() -> Path | None:
    """Where it is kept; None where there is no place."""
    stated = os.environ.get(FOLDER)
    if stated is not None:
        return Path(stated) if stated else None
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "poolrt" / "engines"
    return None


def key(*parts: object) -> str:
    """A name that depends on the parts and on this processor."""
    return hashlib.sha256(json.dumps([machine.processor(), *map(str, parts)]).encode()).hexdigest()[:32]


def find(name: str) -> NDArray[np.uint8] | None:
    """A compiled graph, mapped from its file; None where it is not there."""
    home = folder()
    path = None if home is None else home / f"{name}.blob"
    try:
        if path is None or not path.stat().st_size:
            return None
        os.utime(path)
        # Mapped privately: the library asks for memory that it could write to.
        return np.memmap(path, np.uint8, "c")
    except OSError:
        return None


def keep(name: str, export: Callable[[], Any]) -> None:
    """Keeps a compiled graph, if there is room."""
    home = folder()
    if home is None:
        return
    with contextlib.suppress(OSError, MemoryError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(home / f"{name}.blob", export().getbuffer())
        _bound(home)


def remove(name: str) -> None:
    home = folder()
    if home is not None:
        with contextlib.suppress(OSError):
            (home / f"{name}.blob").unlink(missing_ok=True)


def recall(name: str) -> dict[str, Any] | None:
    """What `remember` kept under a name."""
    home = folder()
    with contextlib.suppress(OSError, ValueError):
        record = None if home is None else json.loads((home / f"{name}.json").read_text())
        return record if isinstance(record, dict) else None
    return None


def remember(name: str, record: dict[str, Any]) -> None:
    home = folder()
    if home is not None:
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(home / f"{name}.json", json.dumps(record, indent=1).encode())


def _write(path: Path, content: bytes | memoryview) -> None:
    """Written beside and renamed, so that no process reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _bound(home: Path) -> None:
    """Removes the blobs that were used longest ago until MOST_BYTES are left."""
    states = sorted(((path.stat(), path) for path in home.glob("*.blob")), key=lambda pair: -pair[0].st_mtime)
    total = 0
    for state, path in states:
        total += state.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
