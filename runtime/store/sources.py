"""Where artifacts come from: a folder of this machine, a web server, or what fsspec opens (S3, GCS, ...).

The hub has a file of its own, hub.py. Every source brings a file into a place where an earlier attempt may
have left its beginning.
"""

from __future__ import annotations

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ..artifact.manifest import FILE
from ..errors import ArtifactError, reason
from ..version import version
from . import buckets
from .addresses import Url
from .buckets import PIECE

log = logging.getLogger("poolrt.store")

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
    wanted_revision: str | None
    """The branch, tag or commit that the address names."""

    def small(self, name: str, most: int) -> bytes:
        """The bytes of a small file. Raises FileNotFoundError where there is none, ArtifactError for one of
        more than `most` bytes and where the place is not reachable."""
        ...

    def fetch(self, name: str, size: int, part: Path, tick: Tick) -> None:
        """Brings a file of `size` bytes to `part`, behind what is there already. Raises ArtifactError."""
        ...


class StreamSource:
    """A source whose files are read as streams from any place on."""

    revision: str | None = None
    wanted_revision: str | None = None

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
            raise unreachable(f"{self.address}/{name}", error) from None
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
        before, why = have, ""
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
            raise unreachable(what, error) from None
        except _Refused as error:
            raise ArtifactError(f"{what}: {error}") from None
        except TEMPORARY as error:
            why = reason(error)
        if have == size:
            part.touch()
            continue
        why = why or f"it ended after {have} of {size} bytes"
        failures = 0 if have > before else failures + 1
        if failures >= TRIES:
            raise ArtifactError(
                f"{what}: {why}; the same command again goes on from what is there, unless what is there is "
                "not what its manifest lists: then push it again"
            )
        log.info("%s: %s after %d of %d bytes; going on", what, why, have, size)
        time.sleep(WAIT_S * 2**failures)


class _Refused(Exception):
    """The server will not send the file, however often it is asked."""


def unreachable(what: str, error: Exception) -> ArtifactError:
    """The error for a file or folder that cannot be read, by what the attempt raised."""
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{what}: not there, though the manifest lists it")
    if isinstance(error, PermissionError):
        return ArtifactError(f"{what}: access is refused ({reason(error)})")
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
    return StreamSource(url.text, buckets.reading(url))


@contextmanager
def reported(url: Url) -> Iterator[None]:
    """Raises ArtifactError where a bucket cannot be asked."""
    try:
        with buckets.translated(url):
            yield
    except OSError as error:
        raise unreachable(str(url), error) from None


def _downloaded(address: str, start: int) -> Iterator[bytes]:
    """Yields the bytes of a web address from `start` on. Raises OSError, FileNotFoundError for 404."""
    import ssl

    request = urllib.request.Request(
        address.replace(" ", "%20"),
        # The bytes of the file itself are compared with its sha256, so no compressed form of them will do.
        headers={"User-Agent": f"poolrt/{version()}", "Accept-Encoding": "identity"}
        | ({"Range": f"bytes={start}-"} if start else {}),
    )
    if login := _login(urlsplit(address).hostname or ""):
        request.add_unredirected_header("Authorization", login)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(address) from None
        if error.code in (401, 403):
            raise PermissionError(
                f"the server says {error.code} {error.reason}; name and password are taken from ~/.netrc"
            ) from None
        if error.code in (400, 405):
            raise _Refused(f"the server says {error.code} {error.reason}") from None
        raise OSError(f"the server says {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            why = f"{error.reason.verify_message}; SSL_CERT_FILE names certificates that are trusted"
        else:
            why = getattr(error.reason, "strerror", None) or str(error.reason)
        raise OSError(why) from None
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


def _login(host: str) -> str | None:
    """The Authorization header for a host that ~/.netrc, or the file that NETRC names, knows."""
    import base64
    import netrc

    try:
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    if login is None:
        return None
    return "Basic " + base64.b64encode(f"{login[0]}:{login[2]}".encode()).decode()


def has_manifest(source: Source, most: int) -> bytes | None:
    """The manifest's bytes; None where the place has none. Raises ArtifactError."""
    try:
        return source.small(FILE, most)
    except FileNotFoundError:
        return None
