"""The log of `poolrt serve`: its flags about logging, applied to the standard library's loggers."""

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
    """Shortens what clients send and escapes its control characters, so that no text can forge a log line.

    It is a filter of the loggers, and so holds for any handler and format of the operator.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(plain, record.args))
        return True


def plain(argument: object) -> object:
    """Returns an argument of a log record on one line. The further lines of an error are kept, but indented,
    so that none looks like a record."""
    if isinstance(argument, int | float):
        return argument
    text = str(argument)
    if isinstance(argument, BaseException):
        return "\n  | ".join(map(_printable, text.split("\n")))
    if isinstance(argument, str) and len(text) > MOST_ARGUMENT:
        text = f"{text[:MOST_ARGUMENT]}..."
    return _printable(text)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# At import, not in `configure`: it must hold also where another server runs the application.
for name in LOGGERS:
    logging.getLogger(name).addFilter(OneLine())


class Indented(logging.Formatter):
    """Indents stacks, so that none of their lines looks like a record: the last may hold a client's text."""

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


def configure(settings: Settings, *, file: Path | None, quiet: str) -> None:
    """Sets up the loggers of the process.

    Args:
        file: settings for logging.config.dictConfig (`--log-config-file`); None: those of the flags.
        quiet: paths, joined by commas, whose requests are kept out of the access log.

    Raises InputError for a file that dictConfig does not take.
    """
    if file is not None:
        _configure_from(file)
    else:
        handler = logging.StreamHandler(sys.stderr)
        as_json = settings.log_format == "json"
        handler.setFormatter(JsonLines() if as_json else Indented("%(levelname).1s %(asctime)s %(message)s"))
        logging.captureWarnings(as_json)
        logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
        logging.getLogger("uvicorn.access").setLevel("INFO" if settings.access_log else "WARNING")
        logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("uvicorn.access").addFilter(Quiet(quiet))


def _configure_from(file: Path) -> None:
    expected = "expected JSON as logging.config.dictConfig takes it"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"--log-config-file {file}: not readable ({type(error).__name__}); {expected}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"--log-config-file {file}: found {type(content).__name__}; {expected}, an object")
    try:
        # dictConfig's default silences every logger that the file does not name, poolrt's among them.
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False} | content)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise InputError(f"--log-config-file {file}: {why}; {expected}") from None


def log_inputs(identifier: str, model: str, inputs: Sequence[Any], most: int | None) -> None:
    """Logs a request's prompts in one line: of each at most `most` characters or token ids; None: all."""
    log.info("request %s: model %s, inputs %s", identifier, model, [_cut(prompt, most) for prompt in inputs])


def _cut(prompt: Any, most: int | None) -> Any:
    match prompt:
        case str():
            return prompt[:most]
        case dict():
            return {key: _cut(value, most) for key, value in prompt.items()}
        case [int(), *_]:
            return prompt[:most]
        case list() | tuple():
            return [_cut(entry, most) for entry in prompt]
        case None | bool() | int() | float():
            return prompt
        case _:  # a picture
            return f"<{type(prompt).__name__}>"
