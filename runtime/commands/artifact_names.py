"""What a shell completes the name of an artifact to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError


def artifact_names() -> Iterator[str]:
    """The artifacts of ./artifacts, where `poolrt export` puts them, then the names of stored ones."""
    from ..store import home

    yield from sorted(str(path.parent) for path in Path("artifacts").glob("*/manifest.json"))
    with contextlib.suppress(InputError):
        yield from sorted(path.parent.name for path in home.artifacts().glob("*/manifest.json"))
