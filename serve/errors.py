"""What an error looks like on the wire, and which of our errors is which status (docs/http.md 2.4).

The body carries vLLM's nested object and, beside it, the flat keys of its older form: clients of either read
what they know. A message never carries a path, an address or a stack frame.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from ..runtime.errors import DeadlineExceeded, EngineError, InputError, Overload, PluginError

# Files of the server and its libraries; API paths such as /v1/embeddings stay.
_PATH = re.compile(
    r"(?<![\w:/])/(?:(?:home|usr|opt|var|tmp|root|lib|mnt|srv|work|workspace|data|etc|proc)/[^\s'\"<>,;)]*|(?:[\w.@+-]+/)+[\w@+-]+\.[A-Za-z]\w{0,9}\b)"
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")
_FRAME = re.compile(
    (r"^\s*(?:Traceback \(most recent call last\):|File \"[^\"]*\", " r"line \d+.*)$"), re.MULTILINE
)

TYPES = {
    400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError", 431: "RequestTooLargeError", 499: "ClientClosedRequest",
    500: "InternalServerError", 501: "NotImplementedError",
    503: "ServiceUnavailableError", 504: "TimeoutError",
}  # fmt: skip
TEI_TYPES = {413: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


TOLD = frozenset({"input_text", "input_tokens", "task", "type", "model"})
"""Parameters that vLLM tells in `param`; others stand in the message only."""


UNREAD = "Bad Request"
"""Type of the error for a body that is not what the route asks for: such a body may be another route's."""


class ApiError(Exception):
    """An answer other than 200, decided by the serving layer itself."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.kind = kind or TYPES.get(status) or HTTPStatus(status).phrase
        self.headers = headers or {}


def surprising(told: ApiError) -> bool:
    """Whether the operator needs the stack: not while loading or draining, nor of a deadline that passed."""
    return told.status >= 500 and told.status not in (501, 503, 504)


def scrub(message: str) -> str:
    """Removes addresses, stack frames and file paths."""
    return _PATH.sub("<path>", _FRAME.sub("", _ADDRESS.sub("", message))).strip()


def api_error(error: Exception) -> ApiError:
    """The answer for any exception; what is not ours becomes a 500 that says nothing."""
    match error:
        case ApiError():
            return error
        case DeadlineExceeded():
            return ApiError(504, str(error))
        case Overload():
            return ApiError(429, str(error), headers={"Retry-After": str(max(1, round(error.retry_after_s)))})
        case InputError():
            return ApiError(
                400, named(str(error), error.field), param=error.field if error.field in TOLD else None
            )
        case EngineError():
            return ApiError(500, "the engine failed; the server's log says why")
        case PluginError():
            return ApiError(500, "the IO processor failed; the server's log says why")
        case _:
            return ApiError(500, "internal error; the server's log says why")


def named(message: str, field: str | None) -> str:
    """The message with the parameter to change, where it does not say it by itself."""
    return (
        message
        if field is None or (field in message and field not in TOLD)
        else f"{message} (parameter={field})"
    )


def body(error: ApiError) -> dict[str, Any]:
    inner = {"message": scrub(str(error)), "type": error.kind, "param": error.param, "code": error.status}
    return {"error": inner, "object": "error", **inner}


def response(error: ApiError) -> Response:
    return Response(
        orjson.dumps(body(error)),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def tei_response(error: ApiError) -> Response:
    """TEI's form: `error` is the text and `error_type` the class; a refused input is a 422. The flat keys
    are those of every route."""
    status = {400: 422, 500: 424, 504: 424}.get(error.status, error.status)
    text = scrub(str(error))
    told = {"error": text, "error_type": TEI_TYPES.get(status, "Validation"), "object": "error"}
    told |= {"message": text, "type": error.kind, "param": error.param, "code": status}
    return Response(
        orjson.dumps(told), status_code=status, headers=error.headers, media_type="application/json"
    )
