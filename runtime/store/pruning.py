"""What nobody needs any more: drafts of processes that died, partial downloads, caches of artifacts that are
gone, exports that were not used for long."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import cache_folder
from ..artifact import checkpoints
from ..artifact.manifest import FILE
from ..errors import InputError
from . import home
from .locking import is_free, locked
from .placing import remove

UNUSED_DAYS = 30.0
"""A compiled graph, or an export of a checkpoint by `poolrt serve`, that was not used for so long is old."""
_EXPORT = re.compile(r".+-[0-9a-f]{12}")
_DRAFT = re.compile(r"\.(.+)\.partial(?:\.old)?")


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that may go."""

    path: Path
    why: str
    size: int
    """In bytes."""


def leftovers() -> list[Leftover]:
    """Everything that `prune` would remove. Raises InputError."""
    homes = [home.artifacts()]
    with contextlib.suppress(InputError):
        homes.append(checkpoints.default_cache())
    return [
        *(leftover for folder in homes for leftover in _drafts(folder)),
        *(leftover for folder in homes[1:] for leftover in _unused_exports(folder)),
        *_records(),
        *_engines(),
    ]


def prune(several: list[Leftover]) -> int:
    """Removes them, and returns how many bytes that frees. What another process holds meanwhile stays."""
    freed = 0
    for leftover in several:
        match = _DRAFT.fullmatch(leftover.path.name)
        lock = contextlib.nullcontext() if match is None else _lock(leftover.path.parent, match[1])
        with contextlib.suppress(FileNotFoundError, InputError), lock:
            remove(leftover.path)
            freed += leftover.size
    return freed


def _lock(folder: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return locked(folder / f".{name}.lock", f"{name}: another process is writing it")


def _drafts(folder: Path) -> Iterator[Leftover]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _DRAFT.fullmatch(path.name)
        if match is not None and path.is_dir() and is_free(folder / f".{match[1]}.lock"):
            what = (
                "partial download" if (path / "parts").is_dir() else "left over by an export that ended early"
            )
            yield Leftover(path, what, _size(path))


def _unused_exports(folder: Path) -> Iterator[Leftover]:
    """Exports that `poolrt serve` and `LLM` made of checkpoints, and did not open for long."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _EXPORT.fullmatch(path.name) and (path / FILE).is_file():
            days = (time.time() - path.stat().st_mtime) / 86400
            if days > UNUSED_DAYS:
                yield Leftover(
                    path, f"exported by poolrt serve or LLM, not used for {days:.0f} days", _size(path)
                )


def _records() -> Iterator[Leftover]:
    folder = home.home() / "origins"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if not (home.artifacts() / path.stem / FILE).is_file():
            yield Leftover(path, "about an artifact that is gone", path.stat().st_size)


def _engines() -> Iterator[Leftover]:
    """Of the cache of engines (runtime/cache_folder.py): what was kept of folders that are gone, and compiled
    graphs that nobody read for long."""
    folder = cache_folder.folder()
    if folder is None or not folder.is_dir():
        return
    gone: set[Path] = set()
    for path in sorted((*folder.glob("files-*.json"), *folder.glob(f"{cache_folder.OF}*.json"))):
        place = (cache_folder.recall(path.stem) or {}).get(cache_folder.ABOUT)
        if not isinstance(place, str) or Path(place).exists():
            continue
        blob = folder / f"{path.stem.removeprefix(cache_folder.OF)}.blob"
        for file, what in ((path, "about"), (blob, "compiled of")):
            if file.is_file():
                gone.add(file)
                yield Leftover(file, f"{what} {place}, which is gone", file.stat().st_size)
    for path in sorted(folder.glob("*.blob")):
        facts = path.stat()
        days = (time.time() - max(facts.st_atime, facts.st_mtime)) / 86400
        if days > UNUSED_DAYS and path not in gone:
            yield Leftover(path, f"a compiled model that was not read for {days:.0f} days", facts.st_size)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
