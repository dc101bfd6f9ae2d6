"""uvicorn's HTTP protocol on httptools, with bounds on what comes before a request's body (uvicorn has one of size, for its h11
protocol only, and none of time), and with answers in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import ApiError, body


def too_large(limit: int) -> ApiError:
    text = f"the request's headers are larger than {limit} bytes; send less, or raise --h11-max-incomplete-event-size on the server"
    return ApiError(431, text, headers={"Connection": "close"})


class Gathering(asyncio.Transport):
    """Writes once what is written in one turn of the event loop: a response's head and body are one system call then, and wake the client
    once. uvicorn writes them one after the other, and uvloop sends the first at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.writelines(self._parts)
        self._parts = []

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Protocol(HttpToolsProtocol):
    head_timeout_s = 60.0
    """Time a client may take from its connection, or from the first byte, to the end of a request's headers."""

    # Bytes of a head that is not whole yet; None while there is no such head.
    _received: int | None = 0
    _just_begun = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.transport = Gathering(transport, self.loop)
        self._late = self.loop.call_later(self.head_timeout_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._just_begun = False
        super().data_received(data)
        if self._received is None or self._just_begun:
            return  # what a head shares with the body before it is not counted
        self._received += len(data)
        limit = self.config.h11_max_incomplete_event_size
        if limit is not None and self._received > limit:
            self._refuse("431 Request Header Fields Too Large", too_large(limit))
        elif self._late is None:
            self._late = self.loop.call_later(self.head_timeout_s, self._too_late)

    def on_headers_complete(self) -> None:
        self._received = None
        self._in_time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._received, self._just_begun = 0, True

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        text = f"the request's headers did not arrive within {self.head_timeout_s:g} s"
        self._refuse("408 Request Timeout", ApiError(408, text, kind="RequestTimeout"))

    def _refuse(self, status: str, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        content = orjson.dumps(body(error))
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
        self.transport.write(head.encode() + content)
        self.transport.close()


def protocol(head_timeout_s: float) -> Any:
    """The class that uvicorn makes for each connection."""
    return type("Protocol", (Protocol,), {"head_timeout_s": head_timeout_s})
