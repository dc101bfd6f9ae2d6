"""A small closed-loop HTTP client: `python -m bench.load SETTINGS` holds C requests in flight and times each.

It speaks just enough HTTP/1.1 to cost little beside what it measures, and reports its own CPU time. Requests
are bytes made beforehand, and none is sent twice: the measurement ends early where they run out. An answer is
read to its end and not parsed: bench.over_http has checked one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .servers import cpu_seconds

PATIENCE = 10
"""How many times the measured time may pass until every connection had two answers."""
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


@dataclass
class Load:
    requests: list[bytes]
    port: int
    at: int = 0
    """Of the next request."""
    exhausted: asyncio.Event = field(default_factory=asyncio.Event)
    measuring: bool = False
    stopping: bool = False
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0
    answered: int = 0
    problem: str = ""

    def next(self) -> bytes | None:
        """None: all were sent."""
        if self.at == len(self.requests):
            self.exhausted.set()
            return None
        self.at += 1
        return self.requests[self.at - 1]


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = bytearray()
        self.missing = -1
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.buffer.clear()
        self.missing = -1
        request = self.load.next()
        if request is not None:
            self.sent = time.perf_counter()
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.missing < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self.buffer, 0, end + 2)
            assert length is not None, "an answer without content-length"
            self.missing = end + 4 + int(length[1])
        if len(self.buffer) >= self.missing:
            self.done()

    def done(self) -> None:
        load = self.load
        is_good = self.buffer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
        if not is_good:
            load.problem = self.buffer[:300].decode(errors="replace")
        if load.measuring:
            load.answered += is_good
            load.failures += not is_good
            load.latencies_s.append(time.perf_counter() - self.sent)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.stopping:  # a server may close an idle or used-up connection; that is not an answer
            self.load.failures += self.load.measuring
            self.load.problem = f"connection lost: {exc}"


async def drive(
    load: Load, *, connections: int, warm_s: float, seconds: float, pid: int
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", load.port)
        for _ in range(connections)
    ]
    await _until(load.exhausted, warm_s)
    assert not load.exhausted.is_set(), f"{len(load.requests)} requests do not last for the warm-up"
    before, own, started = cpu_seconds(pid), time.process_time(), time.perf_counter()
    load.measuring = True
    await _until(load.exhausted, seconds)
    # A percentile of less than every connection's answers says nothing.
    while (
        len(load.latencies_s) < 2 * connections
        and not load.exhausted.is_set()
        and time.perf_counter() - started < PATIENCE * seconds
    ):
        await _until(load.exhausted, seconds / 10)
    load.measuring = False
    took = time.perf_counter() - started
    used, own = cpu_seconds(pid) - before, time.process_time() - own
    load.stopping = True
    for transport, _ in opened:
        transport.abort()
    await asyncio.sleep(0)  # lets the aborted transports let go of their sockets
    latencies = sorted(load.latencies_s)
    return {
        "answered": load.answered,
        "failures": load.failures,
        "problem": load.problem,
        "seconds": took,
        "server_cpu_s": used,
        "client_cpu_s": own,
        "latencies_s": latencies,
    }


async def _until(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    requests = [
        f"POST {settings['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        for body in settings["bodies"]
    ]
    load = Load(requests, settings["port"])
    keep = {key: settings[key] for key in ("connections", "warm_s", "seconds", "pid")}
    print(json.dumps(asyncio.run(drive(load, **keep))))


if __name__ == "__main__":
    main()
