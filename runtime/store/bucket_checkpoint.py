"""Brings a checkpoint out of a bucket: the files that `poolrt export` reads, resumed where they broke off."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path

from ..artifact.manifest import FILE
from ..artifact.reading import is_inside
from ..errors import ArtifactError, CheckpointError
from . import home
from .addresses import Url
from .arriving import MOST_FILES, Say, megabytes
from .buckets import missing_bucket, opened
from .hub import CHECKPOINT, LEFT_OUT, PICKLED_WEIGHTS, SAFE_WEIGHTS, SMALL
from .sources import of_url, reported

_STATE = ("size", "ETag", "etag", "LastModified", "mtime", "created")
"""Facts that file systems have of a file, of which some change with its content."""


def is_checkpoint(url: Url) -> bool:
    """Whether a bucket's folder holds a checkpoint. Web servers list no files, so theirs are not looked for.
    Raises ArtifactError."""
    if url.scheme in ("http", "https"):
        return False
    files, root = opened(url)
    with reported(url):
        # First and alone: S3 says of a missing file that access is denied, where it may not be listed.
        if files.exists(f"{root}/{FILE}"):
            return False
        has_settings = any(files.exists(f"{root}/{name}") for name in CHECKPOINT)
    if not has_settings and (why := missing_bucket(url, files, root)):
        raise ArtifactError(f"{url}: {why}")
    return has_settings


def downloaded(url: Url, *, say: Say) -> Path:
    """Brings the checkpoint into the store's folder `checkpoints`, named by its version, and
    returns its folder. Files that are there are kept. Raises CheckpointError, ArtifactError."""
    files, root = opened(url)
    with reported(url):
        listed = files.find(root, detail=True)
    # Some file systems list their paths without the root's first slash.
    front = root.lstrip("/") + "/"
    sizes = {path.lstrip("/").removeprefix(front): int(str(facts["size"])) for path, facts in listed.items()}
    states = [(path, [str(facts.get(key)) for key in _STATE]) for path, facts in sorted(listed.items())]
    version = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:12]
    safe = any(name.endswith(".safetensors") for name in sizes)
    wanted = [*SMALL, *(SAFE_WEIGHTS if safe else PICKLED_WEIGHTS)]
    sizes = {
        name: size
        for name, size in sizes.items()
        if any(fnmatch(name, pattern) for pattern in wanted)
        and not any(fnmatch(name, pattern) for pattern in LEFT_OUT)
    }
    if strange := [name for name in sizes if not is_inside(name)]:
        raise CheckpointError(f"{url}: holds names that no checkpoint has ({', '.join(strange[:5])})")
    if len(sizes) > MOST_FILES:
        raise CheckpointError(f"{url}: {len(sizes)} files, more than a checkpoint has; give its own folder")
    source = of_url(url)
    folder = home.home() / "checkpoints" / f"{url.text.rpartition('/')[2]}-{version}"
    for name, size in sizes.items():
        target = folder / name
        if target.is_file() and target.stat().st_size == size:
            continue
        say(f"{name}: {megabytes(size)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        source.fetch(name, size, part, lambda _: None)
        part.replace(target)
    return folder
