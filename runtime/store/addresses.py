"""Addresses of artifacts and checkpoints outside of this machine's folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from ..errors import InputError
from .home import DEFAULT_REVISION

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
HUB_REVISION = re.compile(rf"{HUB_ID.pattern}@[^@/\s]+")
_HUB = re.compile(r"hf://(?P<repository>[^@]+?/[^@/]+)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+))?")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A folder of a repository of the Hugging Face hub."""

    repository: str
    revision: str | None = None
    folder: str = ""
    """Inside the repository; empty: all of it."""

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision.replace('/', '%2F')}"
        return f"hf://{self.repository}{at}" + (f"/{self.folder}" if self.folder else "")

    def of(self, revision: str | None) -> HubAddress:
        """The same place at another revision."""
        return replace(self, revision=revision)


@dataclass(frozen=True, slots=True)
class Url:
    """A folder behind an URL: https, s3, gs, file, ..."""

    text: str
    """Without a slash at its end."""

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0]

    def __str__(self) -> str:
        return self.text


def is_address(text: str) -> bool:
    """Whether a text is an address rather than a path or a name."""
    return _SCHEME.match(text) is not None


def parsed(text: str) -> HubAddress | Url:
    """The address of a text: a hub id, `owner/name@revision`, `hf://owner/name[@revision][/folder]`, or an
    URL. Raises InputError."""
    if HUB_ID.fullmatch(text):
        return HubAddress(text)
    if HUB_REVISION.fullmatch(text):
        return _hub(f"hf://{text}")
    if not is_address(text):
        raise InputError(
            f"{text[:200]!r}: neither a folder, nor a hub id (owner/name), nor an address (hf://, https://, s3://)"
        )
    if text.startswith("hf://"):
        return _hub(text.rstrip("/"))
    if "::" in text or any(ord(character) < 33 for character in text):
        raise InputError(f"{text[:200]!r}: chained addresses and blanks are not read; give one plain URL")
    parts = urlsplit(text)
    if not (parts.netloc or parts.path.strip("/")):
        raise InputError(f"{text!r}: names no place; give {text}bucket/folder or the like")
    if parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"{parts.scheme}://{parts.hostname or ''}...: an address with a password, ? or # is not read; "
            "give the address of a folder, and credentials by the environment (of the web: by ~/.netrc)"
        )
    return Url(text.rstrip("/"))


def _hub(text: str) -> HubAddress:
    match = _HUB.fullmatch(text)
    if match is None:
        # Without a revision, the folder follows the name directly.
        parts = text.removeprefix("hf://").split("/", 2)
        repository, folder, revision = "/".join(parts[:2]), "".join(parts[2:]), None
    else:
        repository, revision, folder = match["repository"], match["revision"], match["folder"] or ""
    inside = PurePosixPath(folder)
    strange = inside.is_absolute() or ".." in inside.parts or any(mark in folder for mark in "\\*?[]")
    if not HUB_ID.fullmatch(repository) or strange:
        raise InputError(f"{text[:200]!r}: expected hf://owner/name, hf://owner/name@revision/folder, ...")
    if revision is not None:
        revision = revision.replace("%2F", "/").replace("%2f", "/")
    return HubAddress(repository, revision, inside.as_posix() if folder else "")


def kept(address: HubAddress | Url) -> str:
    """How the store writes an address down: the default revision is not named."""
    if isinstance(address, HubAddress) and address.revision == DEFAULT_REVISION:
        address = address.of(None)
    return str(address)


def same_place(first: str, second: str) -> bool:
    """Whether two addresses, as they are written down, are the same place at any two revisions."""
    if not (first.startswith("hf://") and second.startswith("hf://")):
        return first == second
    return _hub(first).of(None) == _hub(second).of(None)
