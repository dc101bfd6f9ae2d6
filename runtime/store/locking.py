"""The lock of one artifact's name, which one process holds at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock. The system releases it when the process ends. Raises InputError while another holds it.

    Args:
        busy: the error's text.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    try:
        yield
    finally:
        # The file is removed while the lock is held. A process that opened it earlier then sees that it is
        # gone, and opens a new one instead of locking a file without a name. Windows cannot remove an open
        # file; there filelock removes it after the release.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now."""
    if not path.exists():
        return True
    try:
        with locked(path, "busy"):
            return True
    except InputError:
        return False
