"""uvicorn's HTTP protocol on httptools, with bounds on what comes before a request's body: uvicorn has one of size, for its h11
protocol only, and none of time."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import ApiError, body


def too_large(limit: int) -> ApiError:
    text = f"the request's headers are larger than {limit} bytes; send less, or raise --h11-max-incomplete-event-size on the server"
    return ApiError(431, text, headers={"Connection": "close"})


class Protocol(HttpToolsProtocol):
    head_timeout_s = 60.0
    """Time a client may take from its connection, or from the first byte, to the end of a request's headers."""

    # Bytes of a head that is not whole yet; None while there is no such head.
    _received: int | None = 0
    _just_begun = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
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
