"""What is written to the log, and how: the flags of `poolrt serve` about it, applied to the
standard library's loggers."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from .json_logs import JsonLines
from .settings import Settings

log = logging.getLogger("poolrt.serve")

MOST_ARGUMENT = 2000
"""Characters of a text in the log, prompts aside (`--max-log-len`)."""
LOGGERS = ("poolrt.serve", "uvicorn.access", "uvicorn.error")


class OneLine(logging.Filter):
    """Lets no text forge a line of the log: what clients send stands in it without control characters, and
    shortened. A filter of the loggers, so that it holds whatever the operator's handlers and formats are."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(plain, record.args))
        return True


def plain(argument: object) -> object:
    """An argument of a log record on one line. An error's own further lines are kept, indented:
    they look like no record."""
    if isinstance(argument, int | float):
        return argument
    text = str(argument)
    if isinstance(argument, BaseException):
        return "\n  | ".join(map(_printable, text.split("\n")))
    return _printable(
        text if len(text) <= MOST_ARGUMENT or not isinstance(argument, str) else f"{text[:MOST_ARGUMENT]}..."
    )


def _printable(text: str) -> str:
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    )


# Here and not in `configure`: it holds also where the application runs under a server of somebody else's.
for name in LOGGERS:
    logging.getLogger(name).addFilter(OneLine())


class Indented(logging.Formatter):
    """Stacks, whose last line may hold a client's text, are indented: none of their
    lines looks like a record."""

    def formatException(self, ei: Any) -> str:  # noqa: N802, the library's name
        return "  | " + super().formatException(ei).replace("\n", "\n  | ")


class Quiet(logging.Filter):
    """Keeps requests to some paths out of the access log."""

    def __init__(self, paths: str) -> None:
        super().__init__()
        self.paths = frozenset(path.strip() for path in paths.split(",") if path.strip())

    def filter(self, record: logging.LogRecord) -> bool:
        # uvicorn's arguments: client, method, path with query, HTTP version, status.
        path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
        return str(path).partition("?")[0] not in self.paths


def configure(settings: Settings, *, file: Path | None, quiet: str, as_json: bool = False) -> None:
    """Raises InputError for a file that logging.config.dictConfig does not take."""
    if file is not None:
        _configure_from(file)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines() if as_json else Indented("%(levelname).1s %(asctime)s %(message)s"))
        logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
        logging.getLogger("uvicorn.access").setLevel("INFO" if settings.access_log else "WARNING")
        logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("uvicorn.access").addFilter(Quiet(quiet))


def _configure_from(file: Path) -> None:
    expected = "expected JSON as logging.config.dictConfig takes it"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"--log-config-file {file}: not readable ({type(error).__name__}); {expected}"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"--log-config-file {file}: found {type(found).__name__}; {expected}, an object")
    try:
        # dictConfig's own default would silence every logger that the file does not
        # name, poolrt's among them.
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
