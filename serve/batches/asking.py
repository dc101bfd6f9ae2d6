"""Asks the application itself, as a client would, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from ..http.memory_budget import HELD
from ..metrics.prometheus import OBSERVE
from ..metrics.state import State


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: Headers
    content: bytes


class Asking:
    """Sends requests to `respond`, the part of an application behind its key and its limits of connections.

    Args:
        application: what endpoints find under `request.app`.
        state: of the server, whose epochs count these requests too.
    """

    def __init__(self, respond: ASGIApp, application: object, state: State) -> None:
        self._respond = respond
        self._state = state
        self._application = application

    async def post(self, path: str, body: bytes, request_id: str) -> Answered:
        """The response to a JSON body. Its content is never more than the application itself would send."""
        length = str(len(body)).encode()
        scope: MutableMapping[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "app": self._application, "client": None, "server": None,
            "headers": [
                (b"content-type", b"application/json"), (b"content-length", length),
                (b"x-request-id", request_id.encode()),
            ],
        }  # fmt: skip
        unread = [body]
        messages: list[Message] = []

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await asyncio.get_running_loop().create_future()  # this client never leaves

        async def send(message: Message) -> None:
            messages.append(message)

        # What the outermost layer does for requests over connections.
        epoch = self._state.epoch
        epoch.running += 1
        try:
            await self._respond(scope, receive, send)
        finally:
            epoch.running -= 1
            if (hold := scope.get(HELD)) is not None:
                hold.give_back()
            if (observe := scope.get(OBSERVE)) is not None:
                observe()
        start, *rest = messages
        content = b"".join(message.get("body", b"") for message in rest)
        return Answered(start["status"], Headers(raw=start["headers"]), content)
