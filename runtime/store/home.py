"""Where stored artifacts are, and which names they may have."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError

VARIABLE = "POOLRT_HOME"
"""Environment variable: another folder for everything that is stored."""
NAME = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(?:@[A-Za-z0-9][A-Za-z0-9._-]*)?")
"""`name`, or `name@revision` of an artifact that came from a revision of its repository."""
DEFAULT_REVISION = "main"
"""Of the hub's repositories."""


def home() -> Path:
    """The folder of the store, which need not exist. Raises InputError for a user without a home."""
    if stated := os.environ.get(VARIABLE):
        return Path(stated).expanduser()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "poolrt"
    try:
        return Path.home() / ".local" / "share" / "poolrt"
    except RuntimeError:  # neither HOME nor an entry in the list of users, as in many containers
        raise InputError(
            f"there is no home folder to keep artifacts in: set {VARIABLE} to a folder that can be written"
        ) from None


def artifacts() -> Path:
    """The folder whose folders are the stored artifacts. Raises InputError."""
    return home() / "artifacts"


def check_name(name: str) -> None:
    """Raises InputError for a name that is no plain folder name."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"artifact name {name[:80]!r}: use letters, digits, '.', '_' and '-', first a letter or digit, "
            "or name@revision (--name)",
            field="name",
        )


def name_of(own: str, revision: str | None) -> str:
    """The store's name of an artifact whose own name and asked revision these are."""
    if revision is None or revision == DEFAULT_REVISION:
        return own
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", revision).strip("-._") or "revision"
    return f"{own.partition('@')[0]}@{plain}"


def revisions(name: str) -> list[Path]:
    """The folders of stored artifacts that are revisions of one, this one too. Raises InputError."""
    base = name.partition("@")[0]
    return [artifacts() / base, *sorted(artifacts().glob(f"{base}@*"))]
