"""The operator's own layers (--middleware). As in vLLM they are outside of ours, the last one outermost."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
from collections.abc import Sequence
from typing import Any, cast

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...runtime.errors import InputError

EXPECTED = "an ASGI class that takes the application, or an async function of (request, call_next)"


def imported(name: str) -> Any:
    """Imports the class or function `module.Name`. Raises InputError."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise InputError(f"--middleware {name}: expected module.Name, {EXPECTED}")
    try:
        layer = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # other people's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"--middleware {name}: {module} cannot be imported ({why}); install it, or put "
            "its folder into PYTHONPATH"
        ) from error
    if not inspect.isclass(layer) and not inspect.iscoroutinefunction(layer):
        actual = "nothing of that name" if layer is None else f"a {type(layer).__name__}"
        raise InputError(f"--middleware {name}: found {actual}, expected {EXPECTED}")
    return layer


def layers(middleware: Sequence[Any]) -> list[Middleware]:
    """Returns the operator's layers, outermost first, with the Relay to ours behind them.

    Args:
        middleware: ASGI classes and async functions, the outermost last.
    """
    if not middleware:
        return []
    return [*map(_layer, reversed(middleware)), Middleware(Relay)]


def _layer(layer: Any) -> Middleware:
    if inspect.isclass(layer):
        return Middleware(cast(Any, layer))
    return Middleware(BaseHTTPMiddleware, dispatch=layer)


class Relay:
    """Receives messages from the operator's layers in a task, one message ahead, and queues them for ours.

    Our layers check for a message by running `receive` up to where it would wait, and then closing it
    (request_body.arrived). A server's `receive` loses no message by that, but a layer's own may.
    """

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
