"""How the commands of a model open it, and what they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_arguments import PICTURES, VIDEOS

if TYPE_CHECKING:
    from ..model import Model


def opened(artifact: str, engine: str, *, threads: int | None = None) -> Model:
    """Opens an artifact for one command."""
    from ..loader import load

    return load(artifact, engine, threads=threads)


def progress_bar(as_json: bool) -> Any:
    """What draws the progress on a terminal; False elsewhere."""
    if as_json or not sys.stderr.isatty():
        return False
    from ..command_line import terminal

    return terminal.bar


def short(text: str | Path) -> str:
    """Returns a text in one line of at most 60 characters."""
    line = " ".join(str(text).split())
    if len(line) <= 60:
        return line
    # The end of a path says more than its beginning.
    return "..." + line[-57:] if Path(line).suffix.lower() in (*PICTURES, *VIDEOS) else line[:57] + "..."


def cut(truncated: bool) -> str:
    """What stands behind the numbers of a text that was cut."""
    return " (cut)" if truncated else ""


def print_json(value: Any) -> None:
    """Prints the one object of --json."""
    print(json.dumps(value, ensure_ascii=False))
