"""A body that comes in pieces is bounded in size and time before it is whole."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from poolrt.runtime.model import Model
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live, live

SOON_S = 10.0
LIMIT = 1000
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def bounded(models: Callable[[str], Model]) -> Iterator[Live]:
    with live(models("minilm_like"), settings=Settings(max_body_bytes=LIMIT, body_timeout_s=0.4)) as server:
        yield server


@contextmanager
def connected(server: Live) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SOON_S) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """What comes until an answer is whole or the server closes."""
    received = b""
    while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def body(size: int) -> bytes:
    """A request of exactly so many bytes."""
    start, end = b'{"truncate_prompt_tokens": -1, "input": "', b'"}'
    return start + b"a" * (size - len(start) - len(end)) + end


def test_a_stream_beyond_the_limit_is_refused_before_it_ends(bounded: Live):
    with connected(bounded) as connection:
        connection.sendall(CHUNKED + chunk(b'{"input": "'))
        time.sleep(0.05)  # what follows is then read as a stream
        connection.sendall(chunk(b"a" * LIMIT))  # and no last chunk: the answer comes without it
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in told.lower()
    assert b"larger than 1000 bytes" in told


@pytest.mark.parametrize(("size", "status"), [(LIMIT, b"200"), (LIMIT + 1, b"413")], ids=["at", "beyond"])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_the_limit_is_exact_however_the_body_comes(bounded: Live, pieces: int, size: int, status: bytes):
    content = body(size)
    with connected(bounded) as connection:
        connection.sendall(CHUNKED)
        for place in range(pieces):
            connection.sendall(chunk(content[place * size // pieces : (place + 1) * size // pieces]))
            time.sleep(0.02 if pieces > 1 else 0)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 %s " % status)
    with connected(bounded) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size + content)
        assert answer(connection).startswith(b"HTTP/1.1 %s " % status)


def test_a_body_that_does_not_come_is_not_waited_for(bounded: Live):
    with connected(bounded) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n" + b'{"input": ')
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.4 s" in told
    assert b'"RequestTimeout"' in told


def test_dripping_does_not_buy_time(bounded: Live):
    begun = time.monotonic()
    with connected(bounded) as connection:
        connection.sendall(CHUNKED)
        connection.settimeout(0.05)
        told = b""
        while not told and time.monotonic() - begun < SOON_S:
            connection.sendall(chunk(b" "))
            try:
                told = connection.recv(65536)
            except TimeoutError:
                continue
    assert told.startswith(b"HTTP/1.1 408 ")


def test_pieces_that_come_in_time_are_one_body(bounded: Live):
    content = b'{"input": ["the red planet", "mars"]}'
    with connected(bounded) as connection:
        connection.sendall(CHUNKED)
        for place in range(0, len(content), 10):
            connection.sendall(chunk(content[place : place + 10]))
            time.sleep(0.01)
        connection.sendall(b"0\r\n\r\n")
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert told.count(b'"index"') == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [("application/json", 200), ("Application/JSON ; charset=utf-8", 200), ("application/jsonl", 400),
     ("text/json", 400), ("", 400)],
)  # fmt: skip
def test_the_media_type_is_json_and_nothing_else(bounded: Live, kind: str, status: int):
    got = bounded.client.post("/v1/embeddings", content=b'{"input": "a"}', headers={"content-type": kind})
    assert got.status_code == status


@pytest.mark.parametrize("content", [b"", b"null"])
def test_no_body_is_a_field_that_is_missing(bounded: Live, content: bytes):
    got = bounded.client.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
    assert got.status_code == 400
    assert got.json()["error"]["param"] == "body"
    assert "Field required" in got.json()["error"]["message"]
