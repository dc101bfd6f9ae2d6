"""A transport that sends all writes of one turn of the event loop at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Gathering(asyncio.Transport):
    """Collects the writes of one turn of the event loop, and sends them together.

    uvicorn writes the head and the body of a response one after the other, and uvloop sends each write at
    once. Together they are one system call, and wake the client once.

    Args:
        linger: called before the connection is closed, when everything is written. True keeps it open for
            reading until `close_now`.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        linger: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._transport, self._loop, self._linger = transport, loop, linger
        self._parts: list[bytes] = []
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.writelines(self._parts)
        self._parts = []

    def close(self) -> None:
        if self._closing:
            return
        self._flush()
        self._closing = True
        if not self._linger():
            self._transport.close()

    def close_now(self) -> None:
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def lost(self) -> None:
        """Called when the connection is lost: drops what is not sent yet."""
        self._closing, self._parts = True, []

    def end_of_answers(self) -> None:
        """Tells the client that nothing more will be sent. TLS cannot tell it."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def unsent_bytes(self) -> int:
        """Returns the bytes that wait in this process, beside what the system holds for the client."""
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
