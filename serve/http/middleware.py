"""Layers of the operator's own, from --middleware: outside of all of ours, the last
given outermost, as in vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...runtime.errors import InputError

EXPECTED = "an ASGI class that takes the application, or an async function of (request, call_next)"


def imported(name: str) -> Any:
    """The class or function of `module.Name`. Raises InputError."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise InputError(f"--middleware {name}: expected module.Name, {EXPECTED}")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # other people's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"--middleware {name}: {module} cannot be imported ({why}); install it, or put its folder "
            "into PYTHONPATH"
        ) from error
    if not inspect.isclass(found) and not inspect.iscoroutinefunction(found):
        have = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise InputError(f"--middleware {name}: found {have}, expected {EXPECTED}")
    return found


def layers(given: Sequence[Any]) -> list[Middleware]:
    """Outermost first, with what joins them to ours behind them."""
    if not given:
        return []
    made: list[Middleware] = []
    for one in reversed(given):
        layer: Any = one
        made.append(
            Middleware(layer) if inspect.isclass(one) else Middleware(BaseHTTPMiddleware, dispatch=layer)
        )
    return [*made, Middleware(Relay)]


class Relay:
    """Hands on what the layers outside receive. Ours look whether a message is there by taking a step of
    `receive` (reading.arrived), which a server's bears and a layer's own may not: this one waits for it in a
    task, one message ahead."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived: asyncio.Queue[Message] = asyncio.Queue(1)

        async def relay() -> None:
            kind = ""
            while kind != "http.disconnect":
                message = await receive()
                kind = message["type"]
                await arrived.put(message)

        task = asyncio.create_task(relay())
        try:
            await self.app(scope, arrived.get, send)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
