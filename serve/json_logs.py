"""What `poolrt serve --json` writes for machines: log lines to stderr, and the error that ended the server to
stdout, each a JSON object."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def json_error(error: BaseException, exit_code: int) -> str:
    """Returns the error as every command with `--json` writes it."""
    fields = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code}
    return json.dumps({"error": fields}, ensure_ascii=False)
