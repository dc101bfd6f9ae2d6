"""uvicorn's HTTP protocol on httptools, with a bound on what comes before a request's body: uvicorn's own reaches its h11 protocol only."""

from __future__ import annotations

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import ApiError, body


def too_large(limit: int) -> ApiError:
    text = f"the request's headers are larger than {limit} bytes; send less, or raise --h11-max-incomplete-event-size on the server"
    return ApiError(431, text, headers={"Connection": "close"})


class Protocol(HttpToolsProtocol):
    # Bytes of a head that is not whole yet; None while there is no such head.
    _received: int | None = 0
    _just_begun = False

    def data_received(self, data: bytes) -> None:
        self._just_begun = False
        super().data_received(data)
        if self._received is None or self._just_begun:
            return  # what a head shares with the body before it is not counted
        self._received += len(data)
        limit = self.config.h11_max_incomplete_event_size
        if limit is not None and self._received > limit and not self.transport.is_closing():
            content = orjson.dumps(body(too_large(limit)))
            head = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._received = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._received, self._just_begun = 0, True
