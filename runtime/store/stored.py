"""The artifacts in the store: what each is, where it came from, when it was used last."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import cache_folder
from ..artifact import reading
from ..artifact.manifest import FILE, Manifest
from ..errors import ArtifactError, InputError
from . import home
from .addresses import HUB_ID, HUB_REVISION, is_address, kept, parsed
from .locking import locked
from .placing import remove

USED_AGAIN_S = 60.0
"""An artifact that was used so shortly before is not noted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a stored artifact came from."""

    address: str
    """`hf://owner/name`, an URL, or a folder."""
    revision: str | None = None
    """The hub's commit."""
    stored: str = ""
    """UTC time, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact of the store. It was checked when it came, and is checked again when it is opened."""

    name: str
    folder: Path
    manifest: Manifest
    origin: Origin | None
    used: float | None
    """Seconds since the epoch; None: never."""

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.manifest.files.values())

    def plain(self) -> dict[str, object]:
        """What `poolrt list --json` prints."""
        manifest = self.manifest
        return {
            "name": self.name,
            "folder": str(self.folder),
            "tasks": list(manifest.tasks),
            "precisions": precisions(manifest),
            "engines": [engine.file for engine in manifest.engines],
            "bytes": self.size,
            "checkpoint": manifest.source.checkpoint,
            "origin": None if self.origin is None else asdict(self.origin),
            "used": None if self.used is None else _iso(self.used),
        }


def precisions(manifest: Manifest) -> list[str]:
    """The precisions of an artifact's graphs, as they are stored."""
    return list(dict.fromkeys(graph.stored for graph in manifest.graphs))


def every() -> Iterator[Stored | ArtifactError]:
    """The stored artifacts by name; an error for each folder that cannot be read. Raises InputError."""
    folder = home.artifacts()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and home.NAME.fullmatch(path.name) and (path / FILE).is_file():
            try:
                yield _stored(path)
            except ArtifactError as error:
                yield error


def _stored(folder: Path) -> Stored:
    manifest = reading.described(folder / FILE, (folder / FILE).read_bytes())
    record = _record(folder.name)
    used = record.stat().st_mtime if record.is_file() else None
    return Stored(folder.name, folder, manifest, origin_of(folder.name), used)


def lookup(name: str) -> Path | None:
    """The folder of the stored artifact of this name, or of the one that came from this hub id or address;
    None: there is none. Raises InputError."""
    if home.NAME.fullmatch(name):
        folder = home.artifacts() / name
        return folder if (folder / FILE).is_file() else None
    addresses = {name, f"hf://{name}"}
    if is_address(name) or HUB_ID.fullmatch(name) or HUB_REVISION.fullmatch(name):
        addresses.add(kept(parsed(name)))
    records = home.home() / "origins"
    for path in sorted(records.glob("*.json")) if records.is_dir() else ():
        folder = home.artifacts() / path.stem
        origin = origin_of(path.stem)
        if origin is not None and origin.address in addresses and (folder / FILE).is_file():
            return folder
    return None


def alike(name: str) -> list[str]:
    """Names of stored artifacts that this one may have been meant for. Raises InputError."""
    names = [entry.name for entry in every() if isinstance(entry, Stored)]
    lowered = {known.lower(): known for known in names}
    wanted = name.rpartition("/")[2].lower()
    close = difflib.get_close_matches(wanted, lowered, n=3, cutoff=0.5)
    inside = [known for known in lowered if wanted and wanted in known]
    return [lowered[known] for known in dict.fromkeys((*close, *inside))][:3]


def unknown(name: str) -> ArtifactError:
    """The error for a name that neither a path nor a stored artifact has."""
    close = alike(name)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return ArtifactError(
        f"{name}: no such folder, and no artifact of that name is stored{meant or ';'} "
        "`poolrt list` shows what is stored, `poolrt pull` brings more"
    )


def holds(folder: Path) -> bool:
    """Whether a folder is an artifact's place in the store, so that its name is the store's."""
    try:
        return folder.parent == home.artifacts() and home.NAME.fullmatch(folder.name) is not None
    except InputError:
        return False


def note_use(folder: Path) -> None:
    """Remembers that a stored artifact is used now; does nothing for other folders."""
    with contextlib.suppress(OSError, InputError):
        if holds(folder):
            record = _record(folder.name)
            if not record.is_file():
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text("{}", encoding="utf-8")
            elif time.time() - record.stat().st_mtime > USED_AGAIN_S:
                os.utime(record)


def keep_origin(name: str, origin: Origin) -> None:
    """Writes where an artifact came from. It counts as used then. Raises OSError."""
    record = _record(name)
    record.parent.mkdir(parents=True, exist_ok=True)
    stamped = {**asdict(origin), "stored": origin.stored or _iso(time.time())}
    cache_folder.write(record, json.dumps(stamped, indent=1).encode())


def origin_of(name: str) -> Origin | None:
    """Where a stored artifact came from; None: nobody wrote it down."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return Origin(**json.loads(_record(name).read_text(encoding="utf-8")))
    return None


def drop(name: str) -> int:
    """Removes a stored artifact, and returns how many bytes that frees. Raises ArtifactError for a name that
    is not stored, InputError while it is being written."""
    folder = home.artifacts() / name
    if not home.NAME.fullmatch(name) or not folder.is_dir():
        raise unknown(name)
    with locked(home.artifacts() / f".{name}.lock", f"{name}: another process is writing it; wait for it"):
        freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        remove(folder)
        _record(name).unlink(missing_ok=True)
    return freed


def _record(name: str) -> Path:
    return home.home() / "origins" / f"{name}.json"


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
