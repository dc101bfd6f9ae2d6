"""Publishes an artifact: to the hub, into a folder, to what fsspec opens (S3, GCS, Azure, ...).

Nobody sees half of it. The hub takes one commit, a folder one rename. In a bucket the old manifest goes first
and the new one comes last, and without a manifest a folder is no artifact.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..artifact import reading
from ..artifact.manifest import FILE, Manifest
from ..errors import ArtifactError, InputError, reason
from .addresses import HUB_ID, HubAddress, Url, is_address, parsed
from .arriving import Say, megabytes
from .buckets import OBJECT_STORES, Files, missing_bucket, opened, translated
from .locking import locked
from .placing import put_in_place, remove, sync
from .sources import reported


@dataclass(frozen=True, slots=True)
class Pushed:
    """An artifact that is published now."""

    name: str
    address: str
    """What others pull and load."""
    commit: str | None = None
    """Address of the hub's commit."""


def push(folder: Path, target: str, *, private: bool = False, say: Say) -> Pushed:
    """Checks an artifact against its manifest, then publishes it. Raises ArtifactError, InputError.

    Args:
        target: `owner/name` or `hf://owner/name[@branch][/folder]`, an address (`s3://bucket/folder`), or a
            path; the artifact's files come directly into it.
        private: of a repository of the hub that is made now.
    """
    manifest = reading.read(folder, check="full").manifest
    for name, file in manifest.files.items():
        say(f"{name}: {megabytes(file.size)}")
    address = parsed(target) if is_address(target) or _is_hub_id(target) else None
    if isinstance(address, HubAddress):
        from .hub import published

        commit = published(folder, manifest, address, private=private)
        return Pushed(manifest.name, str(address), commit)
    if address is None:
        _copied(folder, manifest, Path(target).expanduser())
        return Pushed(manifest.name, target)
    if address.scheme in ("http", "https"):
        raise InputError(f"{address}: web servers take no uploads; push to the hub, a bucket or a folder")
    _uploaded(folder, manifest, address)
    return Pushed(manifest.name, str(address))


def _is_hub_id(target: str) -> bool:
    """Whether `a/b` means the hub: not where there is a folder `a`."""
    return HUB_ID.fullmatch(target) is not None and not Path(target).parent.is_dir()


def _copied(folder: Path, manifest: Manifest, target: Path) -> None:
    if target.exists() and not (target / FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists and is not an artifact, so it is not replaced; name a new folder")
    if target.exists() and target.samefile(folder):
        raise InputError(f"{target}: the artifact itself; name another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{target}: another process is writing it; wait for it, or name another folder"
        with locked(target.parent / f".{target.name}.lock", busy):
            draft = target.parent / f".{target.name}.partial"
            remove(draft)
            draft.mkdir()
            try:
                for name in (*manifest.files, FILE):
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, draft / name)
                    sync(draft / name)
                put_in_place(draft, target)
                sync(target.parent)
            finally:
                remove(draft)
    except OSError as error:
        raise ArtifactError(f"{target}: cannot be written ({error.strerror or reason(error)})") from None


def _uploaded(folder: Path, manifest: Manifest, url: Url) -> None:
    files, root = opened(url)
    with reported(url):
        stale = _listed(files, root) - set(manifest.files)
        if why := missing_bucket(url, files, root):
            raise ArtifactError(f"{url}: {why}")
    try:
        with translated(url):
            if files.exists(f"{root}/{FILE}"):
                files.rm_file(f"{root}/{FILE}")
            for name in (*manifest.files, FILE):
                if url.scheme not in OBJECT_STORES:
                    files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                files.put_file(str(folder / name), f"{root}/{name}")
            for name in stale:
                if files.exists(f"{root}/{name}"):
                    files.rm_file(f"{root}/{name}")
    except OSError as error:
        raise ArtifactError(
            f"{url}: cannot be written ({reason(error)}); nobody can load what is there until the same "
            "command ends well"
        ) from None


def _listed(files: Files, root: str) -> set[str]:
    """The files of the artifact that is there now. Others in the place are left alone."""
    if not files.exists(f"{root}/{FILE}"):
        return set()
    try:
        old = reading.described(f"{root}/{FILE}", files.cat_file(f"{root}/{FILE}"))
    except ArtifactError:
        return set()
    return {name for name in old.files if reading.is_inside(name)}
