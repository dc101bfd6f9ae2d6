"""Where artifacts come from: a folder of this machine, a web server, or what fsspec opens (S3, GCS, ...).

The hub has a file of its own, hub.py. Every source brings a file into a place where an earlier attempt may
have left its beginning.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ..artifact.manifest import FILE
from ..errors import ArtifactError, reason
from ..version import version
from .addresses import Url

log = logging.getLogger("poolrt.store")

PIECE = 1 << 20
TIMEOUT_S = 60.0
"""Time that a server may be silent."""
TRIES = 5
"""Attempts in a row that bring nothing before a download is given up."""
WAIT_S = 0.5
"""Pause before the second attempt; it doubles with each."""

Tick = Callable[[int], object]
"""Called with the number of bytes that came since the last call."""
Read = Callable[[int], Iterator[bytes]]
"""Yields a file's bytes from a place on."""
TEMPORARY = (OSError, http.client.HTTPException)
"""What a connection that breaks raises; FileNotFoundError and PermissionError are told apart before."""


class Source(Protocol):
    """A folder with an artifact, somewhere else."""

    address: str
    revision: str | None
    """The hub's commit."""

    def small(self, name: str, most: int) -> bytes:
        """The bytes of a small file. Raises FileNotFoundError where there is none, ArtifactError for one of
        more than `most` bytes and where the place is not reachable."""
        ...

    def fetch(self, name: str, size: int, part: Path, tick: Tick) -> None:
        """Brings a file of `size` bytes to `part`, behind what is there already. Raises ArtifactError."""
        ...


class Files(Protocol):
    """The part of fsspec's file systems that the store uses; its own annotations say less."""

    def open(self, path: str, mode: str) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, object]]: ...
    def cat_file(self, path: str) -> bytes: ...
    def put_file(self, lpath: str, rpath: str) -> object: ...
    def rm_file(self, path: str) -> object: ...
    def makedirs(self, path: str, exist_ok: bool) -> object: ...


class StreamSource:
    """A source whose files are read as streams from any place on."""

    revision: str | None = None

    def __init__(self, address: str, read: Callable[[str, int], Iterator[bytes]]) -> None:
        self.address, self._read = address, read

    def small(self, name: str, most: int) -> bytes:
        data = bytearray()
        try:
            for piece in self._read(name, 0):
                data += piece
                if len(data) > most:
                    raise ArtifactError(
                        f"{self.address}/{name}: more than {most} bytes, so not what it should be"
                    )
        except FileNotFoundError:
            raise
        except (_Refused, *TEMPORARY) as error:
            raise _unreachable(f"{self.address}/{name}", error) from None
        return bytes(data)

    def fetch(self, name: str, size: int, part: Path, tick: Tick) -> None:
        fetched(f"{self.address}/{name}", lambda start: self._read(name, start), size, part, tick)


def fetched(what: str, read: Read, size: int, part: Path, tick: Tick) -> None:
    """Appends to `part` until it has `size` bytes; begins again where a connection breaks. Raises
    ArtifactError."""
    failures = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have > size:
            part.unlink()
            continue
        if have == size and part.exists():
            return
        before, why = have, "the connection ended early"
        try:
            with part.open("ab") as file:
                for piece in read(have):
                    have += len(piece)
                    if have > size:
                        part.unlink()
                        raise ArtifactError(
                            f"{what}: more than the {size} bytes that the manifest says; it changed there, "
                            "or is not what it claims to be"
                        )
                    file.write(piece)
                    tick(len(piece))
        except (FileNotFoundError, PermissionError) as error:
            raise _unreachable(what, error) from None
        except _Refused as error:
            raise ArtifactError(f"{what}: {error}") from None
        except TEMPORARY as error:
            why = reason(error)
        if have == size:
            part.touch()
            continue
        failures = 0 if have > before else failures + 1
        if failures >= TRIES:
            raise ArtifactError(f"{what}: {why}; the same command again goes on from what is there")
        log.info("%s: %s after %d of %d bytes; going on", what, why, have, size)
        time.sleep(WAIT_S * 2**failures)


class _Refused(Exception):
    """The server will not send the file, however often it is asked."""


def _unreachable(what: str, error: Exception) -> ArtifactError:
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{what}: not there, though the manifest lists it")
    return ArtifactError(f"{what}: not reachable ({reason(error)}); check the address and the network")


def of_folder(folder: Path) -> StreamSource:
    """The source of a local folder."""

    def read(name: str, start: int) -> Iterator[bytes]:
        with (folder / name).open("rb") as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    return StreamSource(str(folder.resolve()), read)


def of_url(url: Url) -> Source:
    """The source behind an URL: http and https by Python's own client, all else by fsspec.

    Raises ArtifactError for a scheme that no installed package opens.
    """
    if url.scheme in ("http", "https"):
        return StreamSource(url.text, lambda name, start: _downloaded(f"{url.text}/{name}", start))
    files, root = opened(url)

    def read(name: str, start: int) -> Iterator[bytes]:
        path = f"{root}/{name}"
        with translated(), files.open(path, "rb") as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    return StreamSource(url.text, read)


def opened(url: Url) -> tuple[Files, str]:
    """fsspec's file system for an URL, and the path in it. Raises ArtifactError."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url.text)
    except (ImportError, ValueError) as error:
        raise ArtifactError(
            f"{url}: {reason(error)} (fsspec opens {url.scheme}:// by a package of its own, s3:// by "
            "pip install 'poolrt[s3]')"
        ) from None
    return cast("Files", files), root.rstrip("/")


@contextmanager
def translated() -> Iterator[None]:
    """Makes OSError of what the libraries under fsspec raise (botocore's errors are none)."""
    try:
        yield
    except (OSError, ArtifactError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {reason(error)}") from error


def _downloaded(address: str, start: int) -> Iterator[bytes]:
    """Yields the bytes of a web address from `start` on. Raises OSError, FileNotFoundError for 404."""
    request = urllib.request.Request(
        address.replace(" ", "%20"),
        # The bytes of the file itself are compared with its sha256, so no compressed form of them will do.
        headers={"User-Agent": f"poolrt/{version()}", "Accept-Encoding": "identity"}
        | ({"Range": f"bytes={start}-"} if start else {}),
    )
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(address) from None
        if error.code in (400, 401, 403, 405):
            raise _Refused(f"the server says {error.code} {error.reason}") from None
        raise OSError(f"the server says {error.code} {error.reason}") from None
    with closing(response):
        skip = 0
        if start:
            # A server that knows no ranges sends the whole file again.
            begins = (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
            skip = 0 if response.status == 206 and begins else start
        while piece := response.read(PIECE):
            if skip:
                dropped, skip = piece[:skip], max(0, skip - len(piece))
                piece = piece[len(dropped) :]
            if piece:
                yield piece


def has_manifest(source: Source, most: int) -> bytes | None:
    """The manifest's bytes; None where the place has none. Raises ArtifactError."""
    try:
        return source.small(FILE, most)
    except FileNotFoundError:
        return None
