"""What `poolrt serve` writes for machines: log lines to stderr (`--log-format json`), and with `--json` the
error that ended the server to stdout, each a JSON object."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

REQUEST_FIELDS = (
    "request_id", "client", "method", "path", "route", "status", "duration_s", "model", "prompts", "tokens",
    "tokenise_s", "queue_s", "engine_s", "reason", "trace_id", "span_id",
)  # fmt: skip
"""What a record may say of a request, in the order of the line. They are attributes of the record, so that a
format of the operator (`--log-config-file`) can name them too."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in REQUEST_FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def is_wanted(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the log is to be JSON, as far as arguments and variables say it before they are read: what is
    wrong with them is a line too."""
    words = [word.replace("_", "-") for word in arguments]
    formats = [word.partition("=")[2] for word in words if word.startswith("--log-format=")]
    formats += [value for flag, value in itertools.pairwise(words) if flag == "--log-format"]
    variables = map(environment.get, ("POOLRT_SERVE_LOG_FORMAT", "POOLRT_LOG_FORMAT"))
    chosen = formats[-1] if formats else next(filter(None, variables), None)
    return chosen == "json" or (chosen is None and "--json" in words)


def critical_line(message: str) -> str:
    """The line of an error before the log is configured."""
    return JsonLines().format(
        logging.LogRecord("poolrt.serve", logging.CRITICAL, __file__, 0, message, None, None)
    )


def json_error(error: BaseException, exit_code: int) -> str:
    """Returns the error as every command with `--json` writes it."""
    fields = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code}
    return json.dumps({"error": fields}, ensure_ascii=False)
