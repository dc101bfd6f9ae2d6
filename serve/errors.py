"""The bodies of error responses, and which of our errors has which status (docs/http.md 2.4).

A body has vLLM's nested object and, beside it, the flat keys of vLLM's older form, so that clients of both
can read it. A message never has a path, an address or a stack frame in it.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from ..runtime.errors import DeadlineExceeded, EngineError, InputError, Overload, PluginError

MOST_MESSAGE = 8192
"""Characters of a message. A client's own words may stand in it."""

# Match files of the server and its libraries, not API paths such as /v1/embeddings. The second one begins
# where a run of path characters does, so that no run is read twice: text of a client must not cost a time
# that grows with its square.
_FOLDER = re.compile(
    r"(?<![\w:/])/(?:home|usr|opt|var|tmp|root|lib|mnt|srv|work|workspace|data|etc|proc)/[^\s'\"<>,;)]*"
)
_FILE = re.compile(r"(?<![\w:/.@+-])(\.{0,2})/(?:[\w.@+-]+/)+[\w@+-]+\.[A-Za-z]\w{0,9}\b")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")
_FRAME = re.compile(
    r"^[^\S\n]*(?:Traceback \(most recent call last\):|File \"[^\"\n]*\", line \d+.*)$", re.MULTILINE
)

TYPES = {
    400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 413: "RequestTooLargeError",
    422: "UnprocessableEntityError", 429: "RateLimitError", 431: "RequestTooLargeError",
    499: "ClientClosedRequest", 500: "InternalServerError", 501: "NotImplementedError",
    502: "BadGatewayError", 503: "ServiceUnavailableError", 504: "TimeoutError",
}  # fmt: skip
TEI_TYPES = {413: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}

REASONS = {
    400: "invalid", 401: "unauthorized", 404: "not_found", 405: "invalid", 408: "slow_client",
    413: "too_large", 415: "invalid", 422: "invalid", 429: "queue_full", 431: "too_large",
    499: "client_left", 503: "loading", 504: "deadline", 505: "invalid",
}  # fmt: skip
"""Status -> why a request was refused, in /metrics and in the log. Other statuses are no refusals: a failure
of ours, or of another server."""
REASON = "poolrt.reason"
"""Scope key of the reason of a request's refusal, where its status alone does not tell it."""

REPORTED_PARAMS = frozenset({"input_text", "input_tokens", "task", "type", "model"})
"""Parameters that vLLM names in `param`; others are named in the message only."""

UNREAD = "Bad Request"
"""Type of the error for a body that fits no form of its route. /invocations then tries another route's."""


class ApiError(Exception):
    """A response other than 200 that the serving layer itself decides on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or REASONS.get(status)
        self.param = param
        self.kind = kind or TYPES.get(status) or HTTPStatus(status).phrase
        self.headers = headers or {}


def surprising(error: ApiError) -> bool:
    """Whether the operator needs the stack. Nobody does while models load or the server stops, nor for a
    deadline that passed or another server that failed."""
    return error.status >= 500 and error.status not in (501, 502, 503, 504)


def scrub(message: str) -> str:
    """Removes addresses, stack frames and file paths, and what is beyond MOST_MESSAGE characters."""
    if (beyond := len(message) - MOST_MESSAGE) > 0:
        message = f"{message[:MOST_MESSAGE]}... ({beyond} characters more)"
    text = _FRAME.sub("", _ADDRESS.sub("", message))
    return _FILE.sub(r"\1<path>", _FOLDER.sub("<path>", text)).strip()


def api_error(error: Exception) -> ApiError:
    """Returns the response's error for any exception; one that is not ours becomes a 500 without details."""
    match error:
        case ApiError():
            return error
        case DeadlineExceeded():
            return ApiError(504, str(error))
        case Overload():
            return ApiError(429, str(error), headers={"Retry-After": str(max(1, round(error.retry_after_s)))})
        case InputError():
            param = error.field if error.field in REPORTED_PARAMS else None
            return ApiError(400, named(str(error), error.field), param=param)
        case EngineError():
            return ApiError(500, "the engine failed; the server's log says why")
        case PluginError():
            return ApiError(500, "the IO processor failed; the server's log says why")
        case _:
            return ApiError(500, "internal error; the server's log says why")


def named(message: str, field: str | None) -> str:
    """Returns the message with the parameter to change, where the message does not name it already."""
    if field is None or (field in message and field not in REPORTED_PARAMS):
        return message
    return f"{message} (parameter={field})"


def error_body(error: ApiError) -> dict[str, Any]:
    inner = {"message": scrub(str(error)), "type": error.kind, "param": error.param, "code": error.status}
    return {"error": inner, "object": "error", **inner}


def error_response(error: ApiError) -> Response:
    return Response(
        orjson.dumps(error_body(error)),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def tei_response(error: ApiError) -> Response:
    """Returns the error in TEI's form, with the flat keys of every other route beside it.

    `error` is the text, `error_type` the class. A refused input has status 422.
    """
    status = {400: 422, 500: 424, 504: 424}.get(error.status, error.status)
    text = scrub(str(error))
    content = {"error": text, "error_type": TEI_TYPES.get(status, "Validation"), "object": "error"}
    content |= {"message": text, "type": error.kind, "param": error.param, "code": status}
    return Response(
        orjson.dumps(content), status_code=status, headers=error.headers, media_type="application/json"
    )


def ollama_response(error: ApiError) -> Response:
    """Returns the error in Ollama's form, whose `error` is the text, with the flat keys of every other route
    beside it."""
    text = scrub(str(error))
    content = {"error": text, "object": "error", "message": text, "type": error.kind}
    content |= {"param": error.param, "code": error.status}
    return Response(
        orjson.dumps(content),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )
