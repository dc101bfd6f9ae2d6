"""A watched folder: each artifact in it is served under its folder's name, and follows what happens there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ...runtime.artifact.manifest import FILE
from ..errors import ApiError
from .artifact_loading import ArtifactLoader
from .changes import Change

log = logging.getLogger("poolrt.serve")

WATCH_S = 2.0
"""Time between two looks. A change is followed when two looks in a row see the same."""
PATIENCE = 3
"""Looks after which a folder that is gone counts as removed: where folders cannot be exchanged, a replacement
has a moment without any."""

Files = tuple[tuple[str, int, int, int], ...]
"""The state of an artifact: name, inode, size and time of modification of each file."""


class WatchedFolder:
    """What changed in a folder since the last look. `look` may run in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}
        """Folder's name -> served name, where it is another: of artifacts that the command line names too."""
        self._settled = states(folder)
        """States that are served, or that failed and are not tried again."""
        self._seen = dict(self._settled)
        self._gone: dict[str, int] = {}

    def look(self) -> list[Change]:
        """Returns what to load and unload. A folder that is being written is left for a later look."""
        now = states(self.folder)
        changes = [
            Change("load", self._name(name), str(self.folder / name))
            for name, state in now.items()
            if state != self._settled.get(name) and state == self._seen.get(name)
        ]
        loaded = [Path(change.place).name for change in changes]
        self._settled |= {name: now[name] for name in loaded}
        self._seen = now
        missing = self._settled.keys() - now.keys()
        self._gone = {name: self._gone.get(name, 0) + 1 for name in missing}
        for name in [name for name, looks in self._gone.items() if looks >= PATIENCE]:
            changes.append(Change("unload", self._name(name)))
            del self._settled[name], self._gone[name]
        return changes

    def _name(self, name: str) -> str:
        return self.names.get(name, name)


async def follow(watched: WatchedFolder, loader: ArtifactLoader) -> None:
    """Looks at the folder until it is cancelled. What cannot be loaded is logged, and tried again when it
    changes."""
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            changes = await asyncio.to_thread(watched.look)
        except OSError as error:
            log.warning("--watch-folder %s: %s", watched.folder, error.strerror)
            continue
        await apply(changes, loader)


async def apply(changes: Sequence[Change], loader: ArtifactLoader) -> None:
    for change in changes:
        try:
            await loader.make(change)
        except ApiError as error:
            log.warning("--watch-folder: %s stays as it was: %s", change.name, error)
        except Exception:
            log.exception("--watch-folder: %s stays as it was", change.name)


def states(folder: Path) -> dict[str, Files]:
    """The artifacts of a folder: name of each folder with a manifest -> its state. Raises OSError."""
    with os.scandir(folder) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return {name: _state(folder / name) for name in folders if (folder / name / FILE).is_file()}


def _state(folder: Path) -> Files:
    files: list[tuple[str, int, int, int]] = []
    for path in sorted(folder.rglob("*")):
        try:
            facts = path.stat()
        except FileNotFoundError:  # replaced meanwhile; the next look sees another state
            continue
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files.append((name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(files)
