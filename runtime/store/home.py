"""Where stored artifacts are, and which names they may have."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError

VARIABLE = "POOLRT_HOME"
"""Environment variable: another folder for everything that is stored."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


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
            f"artifact name {name[:80]!r}: use letters, digits, '.', '_' and '-', first a letter or digit "
            "(--name)",
            field="name",
        )
