"""uvicorn's HTTP protocol on httptools, with limits on the bytes that a client may send and on its time.

uvicorn itself limits the size of heads only, and only for its h11 protocol.
The file is long because it is one state machine over the parser's callbacks.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..errors import ApiError, error_body, error_response
from .connections import BODY, HEAD, IDLE, LINGER, LINGER_QUIET_S, WORK, Clock, ConnectionLimits, Unsent
from .write_gathering import Gathering

FRAMING = 16
"""Bytes of chunk sizes and extensions for each byte of a chunked body, beyond the size of a head."""
MANY_CHUNKS = 2048
"""A connection that sent so many chunks at once is parsed in slices from then on, so that other connections
get their turn in between."""
SLICE = 16 * 1024
"""Bytes of a slice."""
LINGER_HEAD_BYTES = 1 << 20
"""Bytes that are read on after a refused head or trailers. A client that sends more is cut off."""
LINGER_BODY_BYTES = 1 << 30
"""Bytes that are still read after a response to a request whose body was not read to its end."""
_HOST = re.compile(rb"[^ \t\"#%/<>?@\\^`{|}]*")


def too_large(limit: int) -> ApiError:
    text = (
        f"the request's headers are larger than {limit} bytes; send less, or raise "
        "--h11-max-incomplete-event-size on the server"
    )
    return ApiError(431, text, headers={"Connection": "close"})


def too_many(count: int, limit: int) -> ApiError:
    text = (
        f"the request has {count} headers, {limit} are admitted; send fewer, or raise "
        "--h11-max-header-count on the server"
    )
    return ApiError(431, text, headers={"Connection": "close"})


class Refusal(Exception):
    """Raised inside the parser's callbacks."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class Enough(Exception):
    """The client has sent more requests ahead than are kept."""


class Cycle(RequestResponseCycle):
    """One request and its response.

    A response that begins before the request's body is complete ends the connection: the client may never
    send the rest of the body, and what it does send is no new request.
    """

    _keeps = True

    @property
    def keep_alive(self) -> bool:
        self._keeps = self._keeps and not self.more_body
        return self._keeps

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._keeps = value


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses requests of connections beyond the limit."""
    text = "the server has as many connections as it may have; try again"
    await error_response(ApiError(503, text, headers={"Connection": "close", "Retry-After": "1"}))(
        scope, receive, send
    )


class Flow(FlowControl):
    """Flow control that does not read on while `held`: the bytes read before are not parsed yet."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


def uncounted(reason: str) -> None:
    """Counts no refusal: of a protocol that serves no metrics."""


class Protocol(HttpToolsProtocol):
    limits = ConnectionLimits()
    clock = Clock(limits)
    logs_requests = True
    """Requests have uvicorn's line in the access log."""
    refused: Callable[[str], None] = staticmethod(uncounted)
    """Counts a request that never reaches the application, by the reason of its refusal."""

    state = HEAD
    since = 0.0
    _in_body = False
    """The parser is behind a request's head and before its end."""
    _boundary = False
    """The last data ended a head or a message, or contained bytes of a body."""
    _unframed = 0
    """Bytes since the last boundary: of an incomplete head, trailers or chunk sizes."""
    _message_bytes = _body_bytes = _trailers = 0
    _deaf = False
    """Nothing more is read: the connection ends with its last response."""
    _choppy = False
    """The client sends very small chunks, so its data is parsed in slices."""
    _unparsed = b""
    _linger_left = 0
    _heard = 0.0
    _resumed = False

    # Called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.transport: Gathering = Gathering(transport, self.loop, self._linger)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.flow = self._flow = Flow(transport)
        self._unsent = Unsent()
        self._chunks: list[bytes] = []
        if not self.clock.add(self, self.loop):
            self.evict()

    def connection_lost(self, exc: Exception | None) -> None:
        self.clock.discard(self)
        self.transport.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.state == LINGER:
            self._heard = 0.0
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.transport.abort()
            return
        if self._deaf:
            return
        if self.state == IDLE:
            self._enter(HEAD)
        if not self._choppy:
            self._feed(data)
            return
        self._flow.pause_reading()
        self._flow.held = True
        if not self._unparsed:
            self.loop.call_soon(self._feed_slice)
        self._unparsed += data

    def _feed_slice(self) -> None:
        data, self._unparsed = self._unparsed[:SLICE], self._unparsed[SLICE:]
        if self._deaf or self.transport.is_closing() or self.state == LINGER:
            self._unparsed = b""
        else:
            self._feed(data)
        if self._unparsed:
            self.loop.call_soon(self._feed_slice)
            return
        self._flow.held = False
        if self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self._flow.resume_reading()

    @property
    def is_fresh(self) -> bool:
        """Whether no request has arrived yet."""
        return self.cycle is None

    @property
    def is_waiting(self) -> bool:
        """Whether the client has every response, and may send another request."""
        return self.state in (HEAD, IDLE)

    def shutdown(self) -> None:
        """Called by the server when it ends: finishes responses, and waits for nothing else."""
        if self.state == LINGER:
            self.transport.close_now()
        else:
            super().shutdown()

    # The parser and its callbacks

    def _feed(self, data: bytes) -> None:
        self._boundary = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._go_on_without_upgrade(data[pause.args[0] :])
            return
        except httptools.HttpParserError as error:
            match error.__context__:
                case Refusal() as refusal:
                    self._refuse(refusal.error)
                case Enough():
                    self._listen_no_more()
                case _:
                    self._refuse(
                        ApiError(400, "the request is not well-formed HTTP", headers={"Connection": "close"})
                    )
            return
        if self._chunks:
            self._pass_on_body()
        if self._boundary:
            self._unframed = 0
        else:
            self._unframed += len(data)
            if self._unframed > self.limits.header_bytes:
                self._refuse(too_large(self.limits.header_bytes))
                return
        if self._in_body:
            self._message_bytes += len(data)
            if self._message_bytes > self._body_bytes * FRAMING + self.limits.header_bytes + (1 << 19):
                self._refuse(too_large(self.limits.header_bytes))

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Reads a request that offers another protocol as if it did not (RFC 9110, 7.8).

        httptools takes the request's body for data of the other protocol, so the head is parsed once more
        without the offer.
        """
        if self._resumed or self.parser.get_method() == b"CONNECT":
            self._refuse(ApiError(400, "no tunnels are opened here", headers={"Connection": "close"}))
            return
        head = [
            b"%s %s HTTP/%s\r\n"
            % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        for name, value in self.headers:
            if name == b"connection":
                kept = [
                    token
                    for token in value.split(b",")
                    if token.strip().lower() not in (b"upgrade", b"http2-settings")
                ]
                value = b",".join(kept)
            if name not in (b"upgrade", b"http2-settings") and (name != b"connection" or value.strip()):
                head.append(b"%s: %s\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._resumed = True
        self._feed(b"".join(head) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self.limits.waiting:
            raise Enough
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a trailer, which nobody reads
            self._trailers += 1
            if self._trailers > self.limits.header_count:
                raise Refusal(too_many(self._trailers, self.limits.header_count))
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        parser = self.parser
        if parser.should_upgrade():
            return
        self._boundary, self._in_body, self._resumed = True, True, False
        self._message_bytes = self._body_bytes = self._trailers = 0
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise Refusal(
                ApiError(505, "this server speaks HTTP in version 1.1", headers={"Connection": "close"})
            )
        self._complete_scope(version)
        before = self.cycle
        cycle = self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log and self.logs_requests,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive() and not self.clock.parting,
            on_response=self.on_response_complete,
        )
        app: Any = self.app
        if self.clock.full and self.scope["path"] not in self.limits.open_paths:
            app = crowded
            self.refused("connections")
        if before is None or before.response_complete:
            self._enter(BODY)
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def _complete_scope(self, version: str) -> None:
        """Puts the host, target and version of the head into the scope. Raises Refusal."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 and (hosts or version == "1.1"):
            raise Refusal(
                ApiError(
                    400,
                    f"the request has {len(hosts)} Host headers, expected 1",
                    headers={"Connection": "close"},
                )
            )
        if hosts and _HOST.fullmatch(hosts[0]) is None:
            raise Refusal(
                ApiError(400, "the request's Host is no host name", headers={"Connection": "close"})
            )
        scope = self.scope
        try:
            self.url.decode("ascii")
            target = httptools.parse_url(self.url)
            path = target.path.decode()
            scope["query_string"] = target.query or b""
        except (httptools.HttpParserError, AttributeError, UnicodeDecodeError):
            text = "the request's target is no path of printable ASCII characters"
            raise Refusal(ApiError(400, text, headers={"Connection": "close"})) from None
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = target.path

    def on_body(self, body: bytes) -> None:
        # Do no more than this: a hundred thousand chunks of one byte may arrive at once.
        self._chunks.append(body)

    def _pass_on_body(self) -> None:
        """Hands the chunks of the body that arrived together to the request."""
        self._boundary = True
        self._choppy = self._choppy or len(self._chunks) > MANY_CHUNKS
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        if self._chunks:
            self._pass_on_body()
        super().on_message_complete()
        self._boundary, self._in_body = True, False
        if self.state == BODY and not self.pipeline:
            self._enter(WORK)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._enter(BODY if cycle.more_body else WORK)
            self._start_asgi_task(cycle, app)
        elif self._deaf:
            self.transport.close()
        else:
            self._enter(HEAD if self._unframed else IDLE)
            self.flow.resume_reading()

    # How a connection ends

    def _enter(self, state: int) -> None:
        self.state, self.since = state, 0.0

    def _listen_no_more(self) -> None:
        """Closes the connection after the responses to earlier requests."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
            return
        self._deaf = True
        self.flow.pause_reading()
        self.cycle.keep_alive = False

    def _refuse(self, error: ApiError) -> None:
        """Sends an error for what is no valid request, or one that does not end, and closes the connection.
        Responses to earlier requests come first."""
        if self.transport.is_closing():
            return
        if error.reason is not None:
            self.refused(error.reason)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not self._in_body:
                self._listen_no_more()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.abort()
                return
        content = orjson.dumps(error_body(error))
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: "
            "application/json\r\nconnection: close\r\n"
        )
        self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        self._deaf = True
        self.transport.close()

    def _linger(self) -> bool:
        """Returns whether the connection stays open until the client has read its response.

        Closing a connection with unread bytes resets it, and the client loses the response (RFC 9112, 9.6).
        """
        outstanding = self.cycle is not None and self.cycle.more_body
        if not outstanding and not self._deaf:
            return False
        self._enter(LINGER)
        self._heard = 0.0
        self._linger_left = LINGER_BODY_BYTES if outstanding and not self._deaf else LINGER_HEAD_BYTES
        self.transport.end_of_answers()
        self.flow.resume_reading()
        return True

    def evict(self) -> None:
        """Ends the connection at once."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.abort()

    # Called by the clock

    @property
    def unsent_since(self) -> float:
        return self._unsent.since

    def look(self, now: float) -> int:
        size = self.transport.unsent_bytes()
        if self._unsent.stuck(now, size, self.limits.write_s):
            self.evict()
            return 0
        if not self.since:
            self.since = now
        elif now - self.since >= self.limits.seconds(self.state):
            self._late(size)
        if self.state == LINGER:
            self._heard = self._heard or now
            if now - self._heard >= min(LINGER_QUIET_S, self.limits.linger_s) and not size:
                self.transport.close_now()
        return size

    def _late(self, unsent: int) -> None:
        if self.state == HEAD:
            text = f"the request's headers did not arrive within {self.limits.head_s:g} s"
            self._refuse(ApiError(408, text, kind="RequestTimeout"))
        elif self.state == BODY:
            text = f"the request's body did not arrive within {self.limits.body_s:g} s"
            self._refuse(ApiError(408, text, kind="RequestTimeout"))
        elif self.state == LINGER:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()


def protocol(
    limits: ConnectionLimits,
    *,
    logs_requests: bool = True,
    refused: Callable[[str], None] = uncounted,
) -> Callable[..., Any]:
    """Returns the class of which uvicorn makes an instance for each connection of a server.

    Args:
        logs_requests: requests have uvicorn's line in the access log.
        refused: counts a request that never reaches the application, by the reason of its refusal.
    """
    attributes = {
        "limits": limits,
        "clock": Clock(limits),
        "logs_requests": logs_requests,
        "refused": staticmethod(refused),
    }
    return type("Protocol", (Protocol,), attributes)
