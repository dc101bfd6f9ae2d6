"""The sha256 of an artifact's files, remembered in the cache folder until a file changes.

A file counts as unchanged while its device, inode, size, time of modification and time of change are those
that were seen when it was hashed. The time of change cannot be set by a program: every write, rename and
change of rights or of the other time moves it. What stays unseen is what does not pass through the file
system, such as a failing disk, and a write on a system whose clock was set back
(docs/decisions/cold-start.md).
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from .. import cache_folder

SETTLED_NS = 2_000_000_000
"""A file that was written so shortly before it was hashed is not remembered: the clocks of file systems have
steps of up to two seconds, and a second write in the same step would leave no trace."""
REMEMBERS = os.name != "nt"
"""On Windows the time of change is the time of creation."""


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """The digests of one folder's files. `of` may be called by several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = "files-" + hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        self._known = (cache_folder.recall(self._name) or {}) if REMEMBERS else {}
        self._new: dict[str, list[object]] = {}

    def of(self, name: str) -> str:
        """The digest of a file, remembered or computed. Raises OSError."""
        path = self._folder / name
        state = _state(path)
        match self._known.get(name):
            case [*before, str() as digest] if before == state:
                return digest
            case _:
                pass
        begun = time.time_ns()
        digest = sha256(path)
        if _state(path) == state and max(state[-2:]) < begun - SETTLED_NS:
            self._new[name] = [*state, digest]
        return digest

    def keep(self) -> None:
        """Remembers what was computed."""
        if self._new and REMEMBERS:
            about = {cache_folder.ABOUT: str(self._folder.resolve())}
            cache_folder.remember(self._name, {**self._known, **self._new, **about})


def _state(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
