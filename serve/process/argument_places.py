"""What the artifacts on the command line stand for: stored names, addresses, a watched folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...runtime.artifact.checkpoints import is_artifact
from ...runtime.errors import InputError, PoolrtError
from ...runtime.store import resolving, stored
from ...runtime.store.addresses import is_address
from ..models import watching
from ..models.watching import WatchedFolder
from .options import Options


def resolved(options: Options) -> tuple[Options, dict[str, tuple[str, ...]]]:
    """The options with folders in the place of stored names and addresses, and folder -> the argument that it
    stands for. What an address names is pulled. Raises InputError and what a pull raises."""
    options = dataclasses.replace(options)
    places: dict[str, str] = {}
    for argument in options.artifacts:
        places[argument], flags = resolving.artifact_or_checkpoint(argument)
        for flag, value in zip(flags[::2], flags[1::2], strict=True):
            name = flag.removeprefix("--")
            if getattr(options, name) not in (None, value):
                raise InputError(
                    f"{argument}: its address says {flag} {value}; leave one of them out", field=name
                )
            setattr(options, name, value)
    options.artifacts = [places[argument] for argument in options.artifacts]
    for name in ("served_model_name", "io_processor_plugin"):
        pairs = [value.partition("=") for value in getattr(options, name)]
        setattr(options, name, [f"{key}{equals}{places.get(place, place)}" for key, equals, place in pairs])
    return options, {place: (argument,) for argument, place in places.items() if place != argument}


def add_watched(options: Options, names: dict[str, str], folder: Path) -> WatchedFolder:
    """Adds the artifacts of a watched folder to the options, with their folders' names in `names`. Those that
    the command line names keep their names. Raises InputError where there is no artifact at all."""
    before = {Path(argument).resolve() for argument in options.artifacts}
    watched = WatchedFolder(folder)
    for name in watching.states(folder):
        if (folder / name).resolve() not in before:
            options.artifacts = [*options.artifacts, str(folder / name)]
            names[str(folder / name)] = name
    if not options.artifacts:
        raise InputError(
            f"--watch-folder {folder}: no artifact in it; put one there first", field="watch-folder"
        )
    return watched


def is_there(argument: str) -> bool:
    """Whether an argument is an artifact of this machine, so that a server opens it at once."""
    try:
        return is_artifact(argument) or (not is_address(argument) and stored.lookup(argument) is not None)
    except (PoolrtError, OSError, ValueError):
        return False
