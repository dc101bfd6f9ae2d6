"""Writes an artifact folder so that an unfinished one can never be loaded.

Files are written to `OUT/.NAME.partial`. The last of them is `manifest.json`, which names every file with its
size and sha256. Then the folder takes its final name in one rename, or in one exchange where an artifact of
that name exists. A crash, SIGKILL included, leaves at most a `.partial` folder without a manifest. The next
export of that name removes it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ...runtime.artifact import manifest as contract
from ...runtime.artifact.digests import sha256
from ...runtime.artifact.manifest import File, Manifest
from ...runtime.artifact.reading import sealed
from ...runtime.errors import InputError

GOLDEN = "golden.npz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_AT_FDCWD = -100  # of linux/fcntl.h: names are relative to the working directory
_RENAME_EXCHANGE = 2  # of linux/fs.h


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that is being written: put files into `folder`, then `commit` a manifest."""

    folder: Path
    final: Path
    hashed: dict[str, str] = field(default_factory=dict)
    """File -> its sha256, for files that were hashed while they were written."""

    def commit(self, manifest: Manifest) -> Path:
        """Hashes every file, writes the manifest, syncs all to disk and gives the folder its final name.

        Returns the final folder.
        """
        files = {}
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            files[name] = File(size=path.stat().st_size, sha256=self.hashed.get(name) or sha256(path))
            _sync(path)
        assert contract.FILE not in files, (
            f"{self.folder}: a manifest was written before the artifact was complete"
        )
        target = self.folder / contract.FILE
        target.write_bytes(sealed(replace(manifest, files=files)))
        for path in (target, *(path for path in self.folder.rglob("*") if path.is_dir()), self.folder):
            _sync(path)
        _put_in_place(self.folder, self.final)
        _sync(self.final.parent)
        return self.final


@contextmanager
def draft(out: str | Path, name: str) -> Iterator[Draft]:
    """Opens `OUT/.NAME.partial` for one writer, and removes at the end what is left there.

    Raises InputError for a name that is not a plain folder name, and while another export of that name is
    running.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"artifact name {name!r}: use letters, digits, '.', '_' and '-', "
            "first a letter or digit (--name)",
            field="name",
        )
    home = Path(out)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{home}: not a folder that can be written to ({error.strerror}); choose another with --out",
            field="out",
        ) from None
    if (home / name).exists() and not (home / name / contract.FILE).is_file():
        raise InputError(
            f"{home / name}: exists and is not an artifact, so it is not replaced; "
            "remove it or choose --name",
            field="name",
        )
    with _lock(home / f".{name}.lock", name):
        folder = home / f".{name}.partial"
        _remove(folder)  # of an export that was killed
        folder.mkdir()
        try:
            yield Draft(folder, home / name)
        finally:
            _remove(folder)


def write_golden(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays by name. Refuses object arrays, which need pickle to be read again."""
    assert all(array.dtype != object for array in arrays.values()), (
        "golden arrays must be readable without pickle"
    )
    with (folder / GOLDEN).open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_golden(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        return {name: golden[name] for name in golden.files}


@contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
    """Holds the lock of one artifact's name. The system releases it when the process ends.

    Raises InputError while another process holds it.
    """
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{name!r} is being exported into {path.parent} by another process; wait for it or choose --name"
        ) from None
    try:
        yield
    finally:
        # The file is removed while the lock is held. A process that opened it earlier then sees that it is
        # gone, and opens a new one instead of locking a file without a name. Windows cannot remove an open
        # file; there filelock removes it after the release.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def _put_in_place(folder: Path, final: Path) -> None:
    if not final.exists():
        folder.rename(final)
        return
    if not _exchange(folder, final):
        # Without an exchange there is a moment without any artifact, but never a half-replaced one.
        aside = folder.with_name(f"{folder.name}.old")
        _remove(aside)
        final.rename(aside)
        folder.rename(final)
        aside.rename(folder)
    _remove(folder)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names atomically. Returns False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _remove(folder: Path) -> None:
    """Removes the manifest first, so that what an interrupted removal leaves cannot be loaded."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        (folder / contract.FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a loss of power."""
    if os.name == "nt":  # Windows opens no folder, and flushes no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
