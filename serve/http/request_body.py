"""Reads the body of an HTTP request as a request record. It checks the media type, the size, the JSON text
and the schema, in this order (docs/http.md 2.1 and 2.4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.types import Message, Receive

from ..errors import UNREAD, ApiError
from ..headers import declared_bytes, header
from ..models.registry import Registry
from ..schema.body import Body
from ..schema.validation_errors import Problem, message
from ..settings import Settings
from . import large_json
from .memory_budget import FREE_BYTES, HELD, Budget, Hold, check_items, check_values

Result = TypeVar("Result")

BODY_BYTES = "poolrt.body_bytes"
"""Scope key of the size of a request's body."""
LIGHT_BYTES = 2048
"""Requests with a body up to this size are read and prepared in the event loop itself."""
LENIENT_BYTES = 1 << 20
"""A larger body must be JSON as RFC 8259 defines it: the standard library's parser, which reads more, is slow
and holds up all threads."""
UNTYPED = "poolrt.untyped"
"""Scope key of requests whose JSON need not be declared."""
CURLS_OWN = "application/x-www-form-urlencoded"
"""What `curl -d` declares where it is told nothing."""


class Shop(Protocol):
    """The part of the application that reading a body needs."""

    settings: Settings
    budget: Budget
    registry: Registry
    preparing_tokens: int
    """Tokens of texts that are being prepared for a queue."""
    unqueued: frozenset[str]
    """Paths of routes that add nothing to a model's queue."""

    def reading(self, request: Request, step: Callable[[], Result]) -> Coroutine[Any, Any, Result]:
        """Runs `step` in the thread that reads bodies."""
        ...


@dataclass(frozen=True, slots=True)
class Wire:
    """Another API at the same path, whose bodies have the key `key` and none of the keys `without`."""

    key: str
    without: tuple[str, ...]

    def has(self, value: Any) -> bool:
        return (
            type(value) is dict
            and value.get(self.key) is not None
            and all(value.get(key) is None for key in self.without)
        )


async def read(request: Request, body: Body, wire: Wire | None = None) -> Any:
    """Returns the request's body as a record of one of the forms of `body`. Raises ApiError.

    A body of the other API, `wire`, is returned as the dict that it is.
    """
    shop = workshop(request)
    content = await read_content(request, shop)

    def step() -> Any:
        value = parsed(content, request, shop)
        return value if wire is not None and wire.has(value) else body.read(value, trusted=trusts(shop))

    return step() if len(content) <= LIGHT_BYTES else await shop.reading(request, step)


async def read_json(request: Request) -> Any:
    """Returns the request's body as a JSON value. Raises ApiError."""
    shop = workshop(request)
    content = await read_content(request, shop)
    if len(content) <= LIGHT_BYTES:
        return parsed(content, request, shop)
    return await shop.reading(request, lambda: parsed(content, request, shop))


async def form(request: Request, body: Body, value: Any) -> Any:
    """Returns a value of `read_json` as a record of one of the forms of `body`. Raises ApiError."""
    shop = workshop(request)
    if request.scope[BODY_BYTES] <= LIGHT_BYTES:
        return body.read(value, trusted=trusts(shop))
    return await shop.reading(request, lambda: body.read(value, trusted=trusts(shop)))


def trusts(shop: Shop) -> bool:
    """Returns whether requests may bring settings of the image processor."""
    return shop.settings.media.trust_request_kwargs


def workshop(request: Request) -> Shop:
    return request.app.state.context.workshop


async def read_content(request: Request, shop: Shop) -> bytes | bytearray:
    check_media_type(request)
    content = await read_bytes(request, shop)
    if not content:
        raise missing()
    return content


def parsed(content: bytes | bytearray, request: Request, shop: Shop) -> Any:
    """Returns the JSON value of a body. Raises ApiError where it is no JSON or has too many values, or where
    there is no memory for it now."""
    admit(content, request, shop)
    return counted(parse(content), content, shop)


def admit(content: bytes | bytearray, request: Request, shop: Shop) -> None:
    """Takes the memory of the parsed body. Raises ApiError where the body has too many values, or there is no
    memory now."""
    if len(content) > FREE_BYTES:
        hold: Hold = request.scope[HELD]
        hold.take(check_values(content, shop.settings.max_items))


def counted(value: Any, content: bytes | bytearray, shop: Shop) -> Any:
    """Returns the value. Raises ApiError where it has too many items."""
    most = shop.settings.max_items
    if len(content) > most:  # each item has at least a byte, so a shorter body has fewer items
        check_items(value, most)
    return value


def missing() -> ApiError:
    return ApiError(
        400, message([Problem("missing", ("body",), "Field required", None)]), param="body", kind=UNREAD
    )


def check_media_type(request: Request) -> None:
    kind = header(request.scope, b"content-type") or ""
    if request.scope.get(UNTYPED) and kind.lower() in ("", CURLS_OWN):
        kind = "application/json"
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(400, "Unsupported Media Type: Only 'application/json' is allowed", kind=UNREAD)
    coding = header(request.scope, b"content-encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise ApiError(
            415,
            f"the body is encoded as {coding[:40]!r}, and bodies are read as they are: send JSON "
            "without Content-Encoding",
        )


async def read_bytes(request: Request, shop: Shop) -> bytes | bytearray:
    limit = shop.settings.max_body_bytes
    declared = declared_bytes(request.scope)
    if declared > limit:
        raise too_large(limit)
    if request.scope["path"] not in shop.unqueued:
        check_queues(shop)
    if declared > FREE_BYTES:
        shop.budget.check(declared)
    # A short body arrives with its head. Only one that has not arrived needs a timer.
    message = arrived(request.receive)
    if message is None or message["type"] != "http.request" or message.get("more_body"):
        content = await read_rest(request, shop, message)
    else:
        content = message.get("body", b"")
        if len(content) > limit:
            raise too_large(limit)
    if len(content) > FREE_BYTES and HELD not in request.scope:
        hold = request.scope[HELD] = Hold(shop.budget)
        hold.take(len(content))
    request.scope[BODY_BYTES] = len(content)
    return content


def check_queues(shop: Shop) -> None:
    """Raises Overload where every model's queue is full, before the body is read for nothing."""
    if not shop.registry.ready.is_set():
        return
    coming = shop.preparing_tokens
    for served in shop.registry.models:
        if not served.model.worker.is_full(coming):
            return
    refusals = [served.model.worker.refusal(coming) for served in shop.registry.models]
    raise min(refusals, key=lambda refusal: refusal.retry_after_s)


async def read_rest(request: Request, shop: Shop, message: Message | None) -> bytearray:
    settings = shop.settings
    content = bytearray()
    hold: Hold | None = None
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = message or await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(499, "the client closed the connection")
                chunk = message.get("body", b"")
                content += chunk
                if len(content) > settings.max_body_bytes:
                    raise too_large(settings.max_body_bytes)
                if hold is not None:
                    hold.take(len(chunk))
                elif len(content) > FREE_BYTES:
                    hold = request.scope[HELD] = Hold(shop.budget)
                    hold.take(len(content))
                if not message.get("more_body"):
                    return content
                message = None
    except TimeoutError:
        raise ApiError(
            408,
            f"the request's body did not arrive within {settings.body_timeout_s:g} s",
            kind="RequestTimeout",
        ) from None


def too_large(limit: int) -> ApiError:
    text = (
        f"the request's body is larger than {limit} bytes; send less per request, or raise "
        "--max-body-bytes on the server"
    )
    # The rest of the body stays unread, so the connection cannot be used again.
    return ApiError(413, text, headers={"Connection": "close"})


def parse(content: bytes | bytearray) -> Any:
    """Returns the JSON value of a body. Raises ApiError for null and for what is no JSON."""
    try:
        value = orjson.loads(content) if len(content) <= large_json.SMALL_BYTES else large_json.loads(content)
    except orjson.JSONDecodeError as error:
        if len(content) > LENIENT_BYTES:
            raise unreadable(error.pos, error.msg.partition(":")[0]) from None
        value = parse_leniently(content)
    if value is None:
        raise missing()
    return value


def parse_leniently(content: bytes | bytearray) -> Any:
    """Returns the JSON value of a body as vLLM reads it, with the standard library. Raises ApiError.

    That parser takes more than RFC 8259: a byte order mark, UTF-16, UTF-32 and NaN. Its places of syntax
    errors are vLLM's too.
    """
    try:
        value = json.loads(content)
        # Raises for a lone surrogate, which neither a tokenizer nor a response can hold.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise unreadable(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise unreadable(0, f"byte {error.start} is not {error.encoding.upper()}") from None
    except UnicodeEncodeError:
        raise ApiError(
            400, "the body holds a lone surrogate (\\ud800 to \\udfff), which is no character"
        ) from None
    except RecursionError:
        raise unreadable(0, "nested too deeply") from None
    except ValueError:  # Python neither reads nor writes integers of more than 4300 digits
        raise unreadable(0, "a number is too long") from None
    return value


def unreadable(place: int, why: str) -> ApiError:
    problem = Problem("json_invalid", ("body", place), "JSON decode error", {}, {"error": why})
    return ApiError(400, message([problem]), param=f"body.{place}", kind=UNREAD)


def arrived(receive: Receive) -> Message | None:
    """Returns the connection's next message where it has arrived already, else None.

    Runs `receive` up to where it would wait, and no further. That loses no message, because servers take a
    message off only where they return it.
    """
    step = receive()
    try:
        step.send(None)  # pyright: ignore[reportAttributeAccessIssue]
    except StopIteration as stopped:
        return stopped.value
    else:
        return None
    finally:
        step.close()  # pyright: ignore[reportAttributeAccessIssue]
