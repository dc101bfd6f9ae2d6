"""Lines of batch files: requests that are read, and results that are written."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import orjson

MOST_ID = 512
"""Characters of a custom id."""


class LineError(Exception):
    """A line that is no request of its batch. The batch goes on without it."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


@dataclass(frozen=True, slots=True)
class LineRequest:
    custom_id: str
    body: bytes
    """The request's JSON."""


def read(line: bytes, endpoint: str, seen: set[str]) -> LineRequest:
    """The request of a line. Raises LineError.

    Args:
        endpoint: the batch's, which every line must name.
        seen: custom ids of the lines before it, to which its own is added.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json_line", f"the line is not valid JSON: {error.msg}") from None
    if type(value) is not dict:
        raise LineError("invalid_json_line", "the line is JSON, but no object")
    custom_id = value.get("custom_id")
    if type(custom_id) is not str or not 0 < len(custom_id) <= MOST_ID:
        raise LineError("missing_required_parameter", f"custom_id: a text of 1 to {MOST_ID} characters")
    if custom_id in seen:
        raise LineError("duplicate_custom_id", "custom_id: a line before has the same", custom_id)
    seen.add(custom_id)
    if value.get("method", "POST") != "POST":
        raise LineError("invalid_method", "method: POST is the only one", custom_id)
    if value.get("url") != endpoint:
        raise LineError("invalid_url", f"url: expected the batch's endpoint, {endpoint}", custom_id)
    if type(value.get("body")) is not dict:
        raise LineError("missing_required_parameter", "body: an object, the request's body", custom_id)
    return LineRequest(custom_id, orjson.dumps(value["body"]))


def _line(custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    identifier = f"batch_req_{uuid.uuid4().hex}"
    content = {"id": identifier, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(content) + b"\n"


def failed(error: LineError) -> bytes:
    """The line of errors for a request that was not made."""
    return _line(error.custom_id, None, {"code": error.code, "message": str(error)})


def responded(request: LineRequest, status: int, content: bytes, request_id: str) -> bytes:
    """The line of a request's response, whose content is JSON; it is copied as it is."""
    body = orjson.Fragment(content)
    return _line(request.custom_id, {"status_code": status, "request_id": request_id, "body": body}, None)
