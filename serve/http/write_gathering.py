"""The transport of a connection, which sends what is written in one turn of the event loop at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Gathering(asyncio.Transport):
    """Writes once what is written in one turn of the event loop: a response's head and body are one
    system call then, and wake the client once. uvicorn writes them one after the other, and uvloop
    sends the first at once.

    `linger` is asked before the connection is closed, with everything written: True keeps it open (for
    reading), as `close_now` then ends.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop,
        linger: Callable[[], bool] = lambda: False
    ) -> None:  # fmt: skip
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
        """The connection is gone: there is nothing left to close."""
        self._closing, self._parts = True, []

    def end_of_answers(self) -> None:
        """Tells the client that nothing more will be sent, where the transport can (TLS cannot)."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def unsent_bytes(self) -> int:
        """What the client has not taken off the connection yet, beyond what the system holds for it."""
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
