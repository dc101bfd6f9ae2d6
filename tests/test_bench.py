"""The measuring tools themselves: texts that never change, a client that counts right,
accuracy that is not flattered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest

from bench import in_process, load, report, servers
from bench.texts import MIXES, texts, twenty_words

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"


def test_texts_are_the_same_every_time():
    assert texts(MIXES[0]) == texts(MIXES[0])
    assert texts(MIXES[0], seed=1) != texts(MIXES[0])
    assert texts(MIXES[2], count=5) == texts(MIXES[2])[:5]
    assert {len(text.split()) for text in twenty_words(30)} == {20}


def test_mixes_have_the_lengths_they_claim():
    words = {mix.name: [len(text.split()) for text in texts(mix)] for mix in MIXES}
    assert max(words["queries"]) < min(words["passages"])
    assert min(words["mixed"]) < 10
    assert max(words["mixed"]) > 150


def test_cosine_is_of_each_text():
    reference = np.eye(3, 4, dtype=np.float32)
    other = reference.copy()
    other[1] = [1, 1, 0, 0]
    np.testing.assert_allclose(in_process.cosines(other * 7, reference), [1, np.sqrt(0.5), 1])


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.12"), (12.345, "12.3"), (1234.5, "1 234"), (4, "4.00")]
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_children_count_as_the_servers_own():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while len(servers.tree(process.pid)) < 2:
            assert process.poll() is None
        assert servers.cpu_seconds(process.pid) >= 0
        assert servers.resident_mib(process.pid) > 1
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize(("reply", "good"), [(ANSWER, True), (REFUSAL, False)], ids=["answers", "refusals"])
@pytest.mark.parametrize("pieces", [1, 3], ids=["whole", "in pieces"])
def test_client_counts_answers_and_failures(reply, good, pieces):
    """Against a server of our own that sends `reply`, whole or in pieces."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data):
            length = -(-len(reply) // pieces)
            for number in range(pieces):
                asyncio.get_running_loop().call_soon(
                    self.transport.write, reply[number * length : (number + 1) * length]
                )

        def connection_lost(self, exc):
            gone.release()

    gone = asyncio.Semaphore(0)

    async def measure() -> dict:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            drive = load.Load([b"POST / HTTP/1.1\r\n\r\n"], server.sockets[0].getsockname()[1])
            found = await load.drive(drive, connections=2, warm_s=0, seconds=0.1, pid=os.getpid())
            for _ in range(2):
                await gone.acquire()
        return found

    found = asyncio.run(measure())
    assert found["failures" if good else "answered"] == 0
    assert found["answered" if good else "failures"] == len(found["latencies_s"]) > 0
    assert bool(found["problem"]) != good
