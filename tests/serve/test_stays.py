"""A request goes straight down: whoever follows one through serve/ changes files
seldom, and comes back to none."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import starlette.responses
from poolrt import serve
from poolrt.runtime.model import Model
from poolrt.serve.app import create_app
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.settings import Settings

SERVE = Path(serve.__file__).parent
BASE = {"settings.py", "headers.py", "errors.py", "flags.py", "logs.py"}
"""The first room: its functions are words that every room uses, no stops on the way."""
MOST_STAYS = 12
BODY = {"query": "capital of France", "documents": ["Paris", "Mars"], "top_n": 1, "return_documents": True}


def properties() -> set[CodeType]:
    """What runs where a property is read: to a reader it is a field."""
    found = set()
    for info in pkgutil.walk_packages(serve.__path__, f"{serve.__name__}."):
        for kind in vars(importlib.import_module(info.name)).values():
            if isinstance(kind, type) and kind.__module__.startswith(serve.__name__):
                found |= {
                    one.fget.__code__
                    for one in vars(kind).values()
                    if isinstance(one, property) and one.fget is not None
                }
    return found


def stays(app: Any, path: str, body: object) -> list[str]:
    """The files of serve/ that one request goes through, in the order of its way.

    A stay is a longest run of function entries in one file. A coroutine that goes on after it waited, or
    after what it called returned, is not entered again. Counted are the entries in the event loop's thread,
    from the outermost layer until the response is whole, without properties and without the base room.
    """
    content = json.dumps(body).encode()
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "app": app,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))],
    }  # fmt: skip
    fields = properties()
    frames: list[FrameType] = []  # kept, so that no later frame has the identity of an earlier one
    statuses: list[int] = []

    def entered(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code is starlette.responses.Response.__call__.__code__:
            sys.setprofile(None)
        elif (
            event == "call"
            and code.co_filename.startswith(str(SERVE))
            and not any(frame is known for known in frames)
        ):
            frames.append(frame)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    async def twice() -> None:
        # What is made once, at the first request, is no part of the way
        await app(dict(scope), receive, send)
        sys.setprofile(entered)
        try:
            await app(dict(scope), receive, send)
        finally:
            sys.setprofile(None)

    asyncio.run(twice())
    assert statuses == [200, 0, 200, 0]
    names = [
        Path(frame.f_code.co_filename).relative_to(SERVE).as_posix()
        for frame in frames
        if frame.f_code not in fields
    ]
    names = [name for name in names if name not in BASE]
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


@pytest.mark.parametrize("model", ["bert_cross_encoder", "minilm_like", "colbert"])
def test_a_rerank_request_goes_straight_down(models: Callable[[str], Model], model: str) -> None:
    registry = Registry([Served(names=("m",), open=lambda: models(model))])
    registry.open()
    app = create_app(registry, Settings())
    try:
        way = stays(app, "/rerank", BODY)
    finally:
        app.state.context.workshop.close()
    assert way[0] == "http/access.py"
    assert way[-1] == "responses.py"
    assert len(way) <= MOST_STAYS, " ".join(way)
    assert len(set(way)) == len(way), f"a file is come back to: {way}"
