"""file: URLs, below the one folder that --allowed-local-media-path names."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ...runtime.errors import InputError

OFF = "Cannot load local files without `--allowed-local-media-path`."
_CHUNK = 1 << 20
# Missing on Windows, where the resolved path alone decides.
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDONLY | _NO_LINK | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


def read(url: str, folder: Path | None, most: int) -> bytes:
    """Returns the bytes of a file below `folder`, at most `most`.

    A link inside the folder may lead to another place inside it, never out of it. Raises InputError.

    Args:
        folder: None: local files are off.
    """
    if folder is None:
        raise InputError(OFF)
    root = folder.resolve()
    path = _path(url)
    try:
        target = path.resolve(strict=True)
        if root not in target.parents:
            raise _outside()
        descriptor = _opened(root, target)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        # Whether a file outside exists must not be told apart from its being outside.
        raise _outside() from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _outside()
        content = bytearray()
        while chunk := os.read(descriptor, min(_CHUNK, most + 1 - len(content))):
            content += chunk
    except OSError:
        raise _outside() from None
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise InputError(f"the file is larger than {most} bytes; raise --max-media-bytes on the server")
    return bytes(content)


def _path(url: str) -> Path:
    """Returns the path of a file: URL. Raises InputError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError("the URL is not valid") from None
    if parts.netloc not in ("", "localhost"):
        raise InputError("a file: URL names no host: file:///folder/picture.png")
    path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if not path.is_absolute():
        raise _outside()
    return path


def _outside() -> InputError:
    return InputError("The file must be a readable file below the server's `--allowed-local-media-path`")


def _opened(root: Path, target: Path) -> int:
    """Opens the file without following any link below `root`: a folder may be swapped for a link after the
    path was resolved. Raises OSError."""
    parts = target.relative_to(root).parts
    if os.open not in os.supports_dir_fd or not _NO_LINK:
        return os.open(target, _FLAGS | _NO_WAIT)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _FLAGS | _NO_WAIT, dir_fd=folder)
    finally:
        os.close(folder)
