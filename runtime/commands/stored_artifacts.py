"""What `poolrt list | pull | push | rm | prune` do; the results are printed, or written as JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..artifact import checkpoints
from ..errors import CheckpointError
from ..store import home, pruning, pulling, pushing, resolving, stored
from ..store.addresses import HubAddress, Url, kept
from ..store.arriving import megabytes
from ..store.pulling import IsCheckpoint


def rows() -> tuple[list[stored.Stored], list[str]]:
    """The stored artifacts, and what is wrong with those that cannot be read. Raises InputError."""
    artifacts, problems = [], []
    for entry in stored.every():
        if isinstance(entry, stored.Stored):
            artifacts.append(entry)
        else:
            problems.append(str(entry))
    return artifacts, problems


def table(artifacts: Sequence[stored.Stored]) -> list[tuple[str, ...]]:
    """The rows that `poolrt list` prints, under one of titles."""
    lines = [("NAME", "TASKS", "PRECISION", "SIZE", "FROM", "USED")]
    for entry in artifacts:
        origin = "-" if entry.origin is None else entry.origin.address
        if entry.origin is not None and entry.origin.revision:
            origin += f" ({entry.origin.revision[:8]})"
        lines.append(
            (
                entry.name,
                " ".join(entry.manifest.tasks),
                " ".join(stored.precisions(entry.manifest)),
                megabytes(entry.size),
                origin,
                "-" if entry.used is None else _ago(time.time() - entry.used),
            )
        )
    return lines


def pulled(
    place: str, *, name: str | None = None, export: bool = False, precision: str | None = None
) -> dict[str, object]:
    """Stores the artifact of a hub id, an address or a folder. A checkpoint is downloaded, or with `export`
    the artifact that is made of it is stored. Returns what happened, for --json. Raises PoolrtError."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        artifact = pulling.pull(place, name=name, say=say)
    except IsCheckpoint as checkpoint:
        return _checkpoint(checkpoint, name=name, export=export, precision=precision)
    return {
        "kind": "artifact",
        "name": artifact.name,
        "folder": str(artifact.folder),
        "address": artifact.address,
        "revision": artifact.revision,
        "new": artifact.is_new,
    }


def _checkpoint(
    checkpoint: IsCheckpoint, *, name: str | None, export: bool, precision: str | None
) -> dict[str, object]:
    place = checkpoint.place
    address = str(place) if isinstance(place, Path) else kept(place)
    if isinstance(checkpoint.place, Url):
        from ..store import bucket_checkpoint

        folder = bucket_checkpoint.downloaded(checkpoint.place, say=say)
        checkpoint.export = [str(folder)]
        checkpoint.place = folder
    source = checkpoint.export[0]
    if export:
        revision = place.revision if isinstance(place, HubAddress) else None
        name = name or home.name_of(Path(source).name, revision)
        home.check_name(name)
        if (home.artifacts() / name).exists():
            pulling.check_same(name, home.artifacts() / name, address, stored.origin_of(name))
        options = [*checkpoint.export[1:], *([] if precision is None else ["--precision", precision])]
        checkpoints.check_exporter(source)
        code, _ = checkpoints.call(
            [
                *checkpoints.program(),
                "export",
                source,
                "--name",
                name,
                "--out",
                str(home.artifacts()),
                *options,
            ]
        )
        if code != 0:
            error = CheckpointError(f"{source}: exporting it failed (exit code {code}), see above")
            error.exit_code = code
            raise error
        stored.keep_origin(name, stored.Origin(address=address))
        folder = home.artifacts() / name
        return {"kind": "artifact", "name": name, "folder": str(folder), "address": address, "new": True}
    folder = checkpoint.place
    if isinstance(folder, HubAddress):
        from ..store import hub

        say(f"{address}: a checkpoint")
        folder = hub.checkpoint(hub.HubSource(folder))
    return {
        "kind": "checkpoint",
        "folder": str(folder),
        "address": address,
        "next": " ".join(["poolrt", "export", *checkpoint.export]),
    }


def pushed(artifact: str, target: str, *, private: bool = False) -> dict[str, object]:
    """Publishes an artifact. Returns what happened, for --json. Raises PoolrtError."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return asdict(pushing.push(resolving.artifact(artifact), target, private=private, say=say))


def removed(names: Sequence[str]) -> dict[str, object]:
    """Removes stored artifacts. Raises ArtifactError before any is removed where one is not stored."""
    for name in names:
        if stored.lookup(name) is None:
            raise stored.unknown(name)
    folders = [stored.lookup(name) for name in names]
    freed = sum(stored.drop(folder.name) for folder in dict.fromkeys(folders) if folder is not None)
    return {"removed": [folder.name for folder in dict.fromkeys(folders) if folder], "bytes": freed}


def pruned(*, dry_run: bool) -> dict[str, object]:
    """Removes what nobody needs, or with `dry_run` only says what that is. Raises InputError."""
    several = pruning.leftovers()
    freed = sum(leftover.size for leftover in several) if dry_run else pruning.prune(several)
    return {
        "leftovers": [{"path": str(item.path), "why": item.why, "bytes": item.size} for item in several],
        "bytes": freed,
        "dry_run": dry_run,
    }


def say(line: str) -> None:
    """Progress goes to stderr, since standard output belongs to the result."""
    print(f"  {line}", file=sys.stderr, flush=True)


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
