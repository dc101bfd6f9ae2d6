"""Brings artifacts into the store: from the hub, from an URL, from a folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ..artifact import reading
from ..artifact.manifest import FILE
from ..errors import ArtifactError, CheckpointError, InputError
from . import home, stored
from .addresses import HubAddress, Url, parsed, same_place
from .arriving import Arrival, Say, check_listed
from .bucket_checkpoint import is_checkpoint
from .locking import locked
from .sources import Source, has_manifest, of_folder, of_url

log = logging.getLogger("poolrt.store")


@dataclass(frozen=True, slots=True)
class Pulled:
    """An artifact that is in the store now."""

    name: str
    folder: Path
    address: str
    revision: str | None
    is_new: bool
    """False: the store had this very version."""


class IsCheckpoint(CheckpointError):
    """The place holds a checkpoint, of which `poolrt export` makes an artifact."""

    def __init__(self, place: HubAddress | Url | Path) -> None:
        self.place = place
        if isinstance(place, Url):
            self.export = []
            super().__init__(
                f"{place}: a checkpoint, not an artifact; bring it here with poolrt pull {place}, or make an "
                "artifact of it with poolrt pull --export"
            )
            return
        name = place.repository if isinstance(place, HubAddress) else str(place)
        more = ""
        if isinstance(place, HubAddress):
            more += f" --revision {place.revision}" if place.revision else ""
            more += f" --subfolder {place.folder}" if place.folder else ""
        self.export = [name, *more.split()]
        super().__init__(
            f"{place}: a checkpoint, not an artifact; make one of it with poolrt export {name}{more}, or "
            "poolrt pull --export"
        )


def pull(text: str, *, name: str | None = None, say: Say = log.info) -> Pulled:
    """Stores the artifact at a hub id, an address or a folder, or brings the stored one up to date.

    An attempt that was interrupted is gone on with. Raises IsCheckpoint, ArtifactError, InputError.

    Args:
        text: or the name of a stored artifact, which comes again from where it came.
        name: in the store; None: the artifact's own, with `@revision` behind it where the address names one.
        say: told each file that comes.
    """
    if name is not None:
        home.check_name(name)
    elif home.NAME.fullmatch(text) and not Path(text).is_dir() and stored.lookup(text) is not None:
        origin = stored.origin_of(text)
        if origin is None or not origin.address:
            raise InputError(f"{text}: stored already, and nobody wrote down where from; give the address")
        text, name = origin.address, text
    return taken_in(source_of(text), name=name, say=say)


def source_of(text: str) -> Source:
    """The source of a hub id, an address or a folder. Raises IsCheckpoint, ArtifactError, InputError."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / FILE).is_file() and (folder / "config.json").is_file():
            raise IsCheckpoint(folder)
        return of_folder(folder)
    address = parsed(text)
    if not isinstance(address, HubAddress):
        if is_checkpoint(address):
            raise IsCheckpoint(address)
        return of_url(address)
    from .hub import HubSource

    source = HubSource(address)
    if source.is_checkpoint:
        raise IsCheckpoint(address)
    return source


def taken_in(source: Source, *, name: str | None, say: Say) -> Pulled:
    """Stores the artifact of a source. Raises ArtifactError, InputError."""
    text = has_manifest(source, reading.MOST_MANIFEST_BYTES)
    if text is None:
        raise ArtifactError(
            f"{source.address}: no {FILE} there, so no artifact; give the address of the folder that has it"
        )
    manifest = reading.described(f"{source.address}/{FILE}", text)
    check_listed(source.address, manifest)
    name = name or home.name_of(manifest.name, source.wanted_revision)
    home.check_name(name)
    folder = home.artifacts()
    _make(folder)
    busy = f"{name!r} is being written into {folder} by another process; wait for it, or give --name"
    with locked(folder / f".{name}.lock", busy):
        final = folder / name
        before = stored.origin_of(name)
        if final.exists():
            check_same(name, final, source.address, before)
        if _is_current(final, text):
            stored.keep_origin(name, stored.Origin(address=source.address, revision=source.revision))
            return Pulled(name, final, source.address, source.revision, is_new=False)
        Arrival(source, manifest, text, folder / f".{name}.partial", final, say).run()
        stored.keep_origin(name, stored.Origin(address=source.address, revision=source.revision))
    return Pulled(name, final, source.address, source.revision, is_new=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set {home.VARIABLE} to a folder that can"
        ) from None


def check_same(name: str, final: Path, address: str, before: stored.Origin | None) -> None:
    """Raises InputError where the name belongs to an artifact from elsewhere."""
    where = "of unknown origin" if before is None else f"from {before.address}"
    if not (final / FILE).is_file():
        raise InputError(f"{final}: exists and is not an artifact; remove it, or give --name", field="name")
    if before is None or not same_place(before.address, address):
        raise InputError(
            f"{name} is stored already, {where}: give --name for another name, or poolrt rm {name} first",
            field="name",
        )


def _is_current(folder: Path, text: bytes) -> bool:
    """Whether the store holds this very version, whole."""
    try:
        if (folder / FILE).read_bytes() != text:
            return False
        reading.read(folder, check="once")
    except (OSError, ArtifactError):
        return False
    return True
