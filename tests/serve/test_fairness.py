"""What one client sends or has asked for neither holds up the others nor stays in memory after its answer."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import uvicorn
from poolrt.serve.http.connections import ConnectionLimits
from poolrt.serve.http.futures import LOOK_S, Waiting
from poolrt.serve.http.protocol import SLICE, protocol
from poolrt.serve.metrics.prometheus import Metrics
from poolrt.serve.metrics.state import State
from poolrt.serve.models.registry import Registry
from poolrt.serve.process import memory_trimming
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from .conftest import Live

HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: "
    b"chunked\r\n\r\n"
)
BYTE = b"1\r\n \r\n"
MANY = 40_000


def chunked(content: bytes, size: int) -> bytes:
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection that only notes whether it is read."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def test_a_body_in_chunks_of_one_byte_is_parsed_in_turns():
    received = 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while True:
            received += len((await receive())["body"])

    async def run() -> list[int]:
        config = uvicorn.Config(application, log_config=None, lifespan="off")
        config.load()
        connection = protocol(ConnectionLimits())(config, ServerState(), {})
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(HEAD + BYTE * MANY)
        await asyncio.sleep(0)
        first = received
        connection.data_received(BYTE * MANY)
        assert not wire.reading, "more is read before what is at hand is parsed"
        steps = []
        while received < 2 * MANY:
            before = received
            await asyncio.sleep(0)
            steps.append(received - before)
        await asyncio.sleep(0)
        assert wire.reading
        connection.cycle.disconnected = True
        for task in connection.tasks:
            task.cancel()
        return [first, *steps]

    first, *steps = asyncio.run(run())
    assert first == MANY
    assert max(steps) <= 2 * SLICE // len(BYTE), "one connection's chunks took more than its turn"


def test_a_body_is_the_same_in_whatever_chunks_it_comes(embedder: Live):
    content = json.dumps({"input": "the red planet"}).encode() + b" " * MANY
    plain = embedder.ask("/v1/embeddings", {"input": "the red planet"})["data"]
    for size in (1, 7, len(content)):
        answer = raw(embedder, HEAD + chunked(content, size))
        assert answer["data"] == plain


def raw(server: Live, request: bytes) -> Any:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            size = 0
            while (line := lines.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            return json.loads(lines.read(size))


def test_scrapes_at_the_same_time_are_written_once_and_no_older_than_their_request(
    monkeypatch: pytest.MonkeyPatch,
):
    metrics = Metrics(Registry([]), State(), engine=False)
    written = 0

    def text() -> bytes:
        nonlocal written
        written += 1
        return b"%d" % written

    monkeypatch.setattr(metrics, "text", text)

    async def thread(step: Callable[[], bytes]) -> bytes:
        await asyncio.sleep(0.01)
        return step()

    async def run() -> tuple[list[bytes], list[bytes]]:
        first = [asyncio.ensure_future(metrics.scraped(thread)) for _ in range(10)]
        await asyncio.sleep(0.005)  # the first is being written: what came since is not in it
        later: list[Awaitable[bytes]] = [metrics.scraped(thread) for _ in range(10)]
        return list(await asyncio.gather(*first)), list(await asyncio.gather(*later))

    first, later = asyncio.run(run())
    assert (set(first), set(later), written) == ({b"1"}, {b"2"}, 2)


def test_nobody_holds_an_answer_after_it_was_given():
    async def run() -> None:
        waiting = Waiting(asyncio.get_running_loop())
        future: Future[Any] = Future()

        async def receive() -> Any:
            await asyncio.Event().wait()

        pending = asyncio.ensure_future(waiting.result(future, receive, limit_s=None))
        await asyncio.sleep(3 * LOOK_S)  # looked at, and looked after
        row = np.zeros(3)
        kept = weakref.ref(row)
        future.set_result([row])
        await pending
        del row, pending, future
        await asyncio.sleep(0)
        gc.collect()
        assert kept() is None
        waiting.close()

    asyncio.run(run())


def test_nothing_of_a_refused_body_stays(embedder: Live):
    many = 30_000
    body = {"input": [{} for _ in range(many)]}
    embedder.refused("/v1/embeddings", {"input": [{}] * 1000})
    gc.collect()
    gc.disable()
    try:
        embedder.refused("/v1/embeddings", body)
        deadline = time.monotonic() + 10
        while len(kept := [one for one in gc.get_objects() if type(one) is list and len(one) == many]) > 1:
            assert time.monotonic() < deadline, "the parsed body waits for a collection of cycles"
            del kept
            time.sleep(0.05)
    finally:
        gc.enable()


def test_memory_that_was_in_use_at_the_peak_is_trimmed_when_the_load_is_over(monkeypatch: pytest.MonkeyPatch):
    trimmed: list[float] = []
    resident = [100.0]
    monkeypatch.setattr(memory_trimming, "resident_bytes", lambda: round(resident[0] * (1 << 20)))

    async def look(idle: bool, size: float) -> int:
        resident[0] = size
        before = len(trimmed)
        trims.look(idle=idle)
        deadline = time.monotonic() + 10
        while trims._running is not None and not trims._running.done():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        return len(trimmed) - before

    async def run() -> list[int]:
        return [
            await look(False, 600), await look(False, 610), await look(True, 400), await look(True, 400),
            await look(True, 110),
            await look(False, 120),
        ]  # fmt: skip

    trims = memory_trimming.Trimming()
    monkeypatch.setattr(trims, "_trim", lambda pad: trimmed.append(resident[0]))
    assert asyncio.run(run()) == [1, 0, 1, 0, 0, 0]
