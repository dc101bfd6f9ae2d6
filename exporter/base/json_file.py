"""JSON files of a checkpoint: bounded, of the expected kind, and refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError, reason

# The longest published files (weight indexes, added tokens) have a few megabytes. A parsed file takes some
# twenty times its size in memory.
MOST_BYTES = 16 << 20


def json_file(path: Path, kind: type) -> Any:
    """The JSON value in `path`, a `kind` (dict or list).

    Raises CheckpointError for a file that is missing, too long, not JSON or of another kind.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise CheckpointError(
                f"{path}: {size} bytes, more than such a file has ({MOST_BYTES} are allowed)"
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; download the repository again") from None
    except RecursionError:
        raise CheckpointError(f"{path}: not readable as JSON: nested too deeply") from None
    except (OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {reason(error)}") from None
    if not isinstance(value, kind):
        raise CheckpointError(
            f"{path}: expected a JSON {'object' if kind is dict else 'list'}, found {type(value).__name__}"
        )
    return value
