"""What is written to the log, and how: the flags of `poolrt serve` about it, applied to the standard library's loggers."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from .settings import Settings

log = logging.getLogger("poolrt.serve")


class Quiet(logging.Filter):
    """Keeps requests to some paths out of the access log."""

    def __init__(self, paths: str) -> None:
        super().__init__()
        self.paths = frozenset(path.strip() for path in paths.split(",") if path.strip())

    def filter(self, record: logging.LogRecord) -> bool:
        # uvicorn's arguments: client, method, path with query, HTTP version, status.
        path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
        return str(path).partition("?")[0] not in self.paths


def configure(settings: Settings, *, file: Path | None, quiet: str) -> None:
    """Raises InputError for a file that logging.config.dictConfig does not take."""
    if file is not None:
        _configure_from(file)
    else:
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname).1s %(asctime)s %(message)s", stream=sys.stderr)
        logging.getLogger("uvicorn.access").setLevel("INFO" if settings.access_log else "WARNING")
        logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("uvicorn.access").addFilter(Quiet(quiet))


def _configure_from(file: Path) -> None:
    expected = "expected JSON as logging.config.dictConfig takes it"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"--log-config-file {file}: not readable ({type(error).__name__}); {expected}") from None
    if not isinstance(found, dict):
        raise InputError(f"--log-config-file {file}: found {type(found).__name__}; {expected}, an object")
    try:
        # dictConfig's own default would silence every logger that the file does not name, poolrt's among them.
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False} | found)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise InputError(f"--log-config-file {file}: {why}; {expected}") from None


def log_inputs(identifier: str, model: str, inputs: Sequence[Any], most: int | None) -> None:
    """One line with a request's prompts: of texts at most so many characters, of token ids so many."""
    log.info("request %s: model %s, inputs %s", identifier, model, [_cut(one, most) for one in inputs])


def _cut(given: Any, most: int | None) -> Any:
    match given:
        case str():
            return given[:most]
        case dict():
            return {key: _cut(value, most) for key, value in given.items()}
        case [int(), *_]:
            return given[:most]
        case list() | tuple():
            return [_cut(one, most) for one in given]
        case _:
            return given
