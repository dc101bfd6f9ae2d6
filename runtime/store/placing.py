"""How a finished folder gets its name: in one step that a crash cannot halve."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from ..artifact.manifest import FILE

_AT_FDCWD = -100  # of linux/fcntl.h: names are relative to the working directory
_RENAME_EXCHANGE = 2  # of linux/fs.h


def put_in_place(folder: Path, final: Path) -> None:
    """Gives a folder its final name, and removes what had that name before."""
    if not final.exists():
        folder.rename(final)
        return
    if not _exchange(folder, final):
        # Without an exchange there is a moment without any artifact, but never a half-replaced one.
        aside = folder.with_name(f"{folder.name}.old")
        remove(aside)
        final.rename(aside)
        folder.rename(final)
        aside.rename(folder)
    remove(folder)


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


def remove(folder: Path) -> None:
    """Removes the manifest first, so that what an interrupted removal leaves cannot be loaded."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        (folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a loss of power."""
    if os.name == "nt":  # Windows opens no folder, and flushes no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
