"""What `poolrt serve` writes for machines: log lines to stderr (`--log-format json`), and with `--json` the
error that ended the server to stdout, each a JSON object."""

from __future__ import annotations

import json
import logging
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


def json_error(error: BaseException, exit_code: int) -> str:
    """Returns the error as every command with `--json` writes it."""
    fields = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code}
    return json.dumps({"error": fields}, ensure_ascii=False)
