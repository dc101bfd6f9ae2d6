"""poolrt's cache folder: what is worked out once per machine and kept for the next start.

Nothing in it is needed: what cannot be read is worked out again, and a folder that cannot be written is done
without. Whoever can write to it can change what this user's models compute, so it is readable by its owner
alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = "POOLRT_ENGINE_CACHE"
"""Environment variable: another folder; "": keep nothing."""
ABOUT = "/"
"""Key of a record that belongs to one folder: that folder's path. No file has this name."""
OF = "of-"
"""Begins the name of the record that says to which artifact's folder a compiled graph belongs."""
MOST_RECORDS = 1000
"""Those that were written longest ago go when there are more."""


def folder() -> Path | None:
    """Where it is; None where there is no place."""
    stated = os.environ.get(FOLDER)
    if stated is not None:
        return Path(stated) if stated else None
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "poolrt" / "engines"
    return None


def recall(name: str) -> dict[str, Any] | None:
    """Returns the record that `remember` kept under a name."""
    home = folder()
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = None if home is None else json.loads((home / f"{name}.json").read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else None
    return None


def remember(name: str, record: dict[str, Any]) -> None:
    home = folder()
    if home is not None:
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(home / f"{name}.json", json.dumps(record, indent=1).encode())
            records = list(home.glob("*.json"))
            if len(records) > MOST_RECORDS:
                records.sort(key=lambda path: path.stat().st_mtime)
                for path in records[:-MOST_RECORDS]:
                    path.unlink(missing_ok=True)


def write(path: Path, content: bytes | memoryview) -> None:
    """Writes beside the path and renames, so that no process reads half of it. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)
