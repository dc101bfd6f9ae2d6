"""What an argument that names an artifact means: a path, a name in the store, or an address."""

from __future__ import annotations

import logging
from pathlib import Path

from .. import extras
from . import home, stored
from .addresses import HUB_ID, HUB_REVISION, HubAddress, Url, is_address, parsed

log = logging.getLogger("poolrt.store")


def artifact(argument: str | Path) -> Path:
    """The folder of an artifact: an existing path, else the stored artifact of that name, hub id or address.

    An address that is not stored yet is pulled first; a stored one is used as it is, without a network
    (`poolrt pull` brings it up to date). A path that does not exist is returned as it is. Raises
    ArtifactError for a plain name that is not stored, and what `pull` raises.
    """
    folder = known(argument)
    if folder is None:
        if isinstance(argument, str) and home.NAME.fullmatch(argument):
            raise stored.unknown(argument)
        return Path(argument)
    return folder


def known(argument: str | Path) -> Path | None:
    """Likewise; None for what is neither a path that exists, nor stored, nor an address."""
    if isinstance(argument, Path):
        return argument if argument.exists() else None
    if is_address(argument):
        folder = _of_address(argument)
    elif _exists(argument):
        return Path(argument)
    elif home.NAME.fullmatch(argument) or HUB_ID.fullmatch(argument):
        folder = stored.lookup(argument)
    elif HUB_REVISION.fullmatch(argument):
        folder = _of_address(argument)
    else:
        return None
    if folder is not None:
        stored.note_use(folder)
    return folder


def artifact_or_checkpoint(argument: str) -> tuple[str, list[str]]:
    """Likewise, where a checkpoint will do too: the folder of an artifact, or else the argument, as a name of
    a checkpoint, with the options of `poolrt export` that its address holds. Raises what `pull` raises, and
    ArtifactError for a plain name that is nothing."""
    from . import bucket_checkpoint
    from .pulling import IsCheckpoint

    try:
        folder = known(argument)
    except IsCheckpoint as checkpoint:
        if isinstance(checkpoint.place, Url):
            return str(bucket_checkpoint.downloaded(checkpoint.place, say=log.info)), []
        return checkpoint.export[0], checkpoint.export[1:]
    if folder is None and home.NAME.fullmatch(argument):
        raise stored.unknown(argument)
    return argument if folder is None else str(folder), []


def _of_address(argument: str) -> Path:
    address = parsed(argument)
    if not isinstance(address, HubAddress) and address.scheme == "file":
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        return Path(url2pathname(urlsplit(address.text).path))
    if (folder := stored.lookup(str(address))) is not None:
        return folder
    from .pulling import pull

    try:
        log.info("%s: pulling it into the store", address)
        return pull(str(address)).folder
    except ModuleNotFoundError as error:
        raise extras.missing(error, "hub") or error from None


def _exists(argument: str) -> bool:
    try:
        return Path(argument).exists()
    except (OSError, ValueError):  # a text that can name no file
        return False
