"""From an HTTP request to a request record: media type, size, JSON, schema, in this order (http-api.md 2.1 and 2.4)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Message

from .body import Body, Refused
from .errors import ApiError
from .headers import declared_bytes, header
from .problems import Problem, message
from .settings import Settings
from .waiting import arrived

BODY_BYTES = "poolrt.body_bytes"
"""Key of the size of a request's body in its scope."""


async def read(request: Request, body: Body) -> Any:
    """The request's body as one of the body's forms. Raises ApiError or Refused."""
    return body.read(await read_json(request))


async def read_json(request: Request) -> Any:
    settings: Settings = request.app.state.context.settings
    check_media_type(request)
    content = await read_bytes(request, settings)
    if not content:
        raise missing()
    value = parse(content)
    if value is None:
        raise missing()
    return value


def missing() -> Refused:
    return Refused(message([Problem("missing", ("body",), "Field required", None)]), param="body")


def check_media_type(request: Request) -> None:
    kind = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("Unsupported Media Type: Only 'application/json' is allowed", param=None)


async def read_bytes(request: Request, settings: Settings) -> bytes:
    limit = settings.max_body_bytes
    if declared_bytes(request.scope) > limit:
        raise too_large(limit)
    # A short body is there when its head is; only what is not deserves a timer.
    message = arrived(request.receive)
    if message is None or message["type"] != "http.request" or message.get("more_body"):
        content = await read_rest(request, settings, message)
    else:
        content = message.get("body", b"")
        if len(content) > limit:
            raise too_large(limit)
    request.scope[BODY_BYTES] = len(content)
    return content


async def read_rest(request: Request, settings: Settings, message: Message | None) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = message or await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(499, "the client closed the connection")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > settings.max_body_bytes:
                    raise too_large(settings.max_body_bytes)
                if not message.get("more_body"):
                    return b"".join(chunks)
                message = None
    except TimeoutError:
        raise ApiError(408, f"the request's body did not arrive within {settings.body_timeout_s:g} s", kind="RequestTimeout") from None


def too_large(limit: int) -> ApiError:
    text = f"the request's body is larger than {limit} bytes; send less per request, or raise --max-body-bytes on the server"
    # The rest of the body is not read, so the connection cannot be used again.
    return ApiError(413, text, headers={"Connection": "close"})


def parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return parse_leniently(content)


def parse_leniently(content: bytes) -> Any:
    """What vLLM's parser, the standard library's, takes beyond RFC 8259: a byte order mark, UTF-16, UTF-32, NaN. Places of
    syntax errors are its too."""
    try:
        value = json.loads(content)
        # Neither a tokenizer nor an answer can hold half a character.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise unreadable(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise unreadable(0, f"byte {error.start} is not {error.encoding.upper()}") from None
    except UnicodeEncodeError:
        raise Refused(
            "the body holds a lone surrogate (\\ud800 to \\udfff), which is no character", param=None, kind="BadRequestError"
        ) from None
    except RecursionError:
        raise unreadable(0, "nested too deeply") from None
    except ValueError:  # Python writes and reads no integer beyond 4300 digits
        raise unreadable(0, "a number is too long") from None
    return value


def unreadable(place: int, why: str) -> Refused:
    problem = Problem("json_invalid", ("body", place), "JSON decode error", {}, {"error": why})
    return Refused(message([problem]), param=f"body.{place}")
