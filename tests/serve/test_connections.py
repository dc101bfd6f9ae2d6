"""What a client cannot make the server hold: bytes, connections, time. Every attack
is on a real connection."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.model import Model
from poolrt.serve.http.connections import LINGER, SPARE, WORK
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live, live
from tests.serve.test_operations import held as waiting

SOON_S = 10.0
KEY = "k"
CHUNKED = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
    b"application/json\r\nTransfer-Encoding: chunked\r\n"
)
BODY = b'{"input": "paris"}'
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def quick(models: Callable[[str], Model]) -> Iterator[Live]:
    """Small limits and short times."""
    settings = Settings(
        max_header_bytes=4000,
        max_header_count=20,
        body_timeout_s=1.0,
        write_timeout_s=0.5,
        keep_alive_s=2,
        max_body_bytes=1 << 20,
        request_id_headers=True,
    )
    with live(models("minilm_like"), settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def locked(models: Callable[[str], Model]) -> Iterator[Live]:
    with live(
        models("minilm_like"), settings=Settings(api_keys=(KEY,), body_timeout_s=1.0, keep_alive_s=2)
    ) as server:
        yield server


def connect(server: Live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=SOON_S)


def rest(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection, however it ends."""
    answer = b""
    try:
        while more := connection.recv(65536):
            answer += more
    except ConnectionError:
        pass
    return answer


def exchange(server: Live, *parts: bytes) -> bytes:
    with connect(server) as connection:
        for part in parts:
            connection.sendall(part)
        return rest(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def pour(connection: socket.socket, piece: bytes, most: int) -> int:
    """Sends the piece again and again until the server hangs up; how many bytes it let pass."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


def held(server: Live) -> int:
    return len(server.server.server_state.connections)


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not claim():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (CHUNK + b"0\r\n", b"x-trailer: b\r\n"),
        (CHUNK + b"0\r\nx-trailer: ", b"b" * 500),
        (CHUNK + b"0\r\n", b"x" * 500),
        (CHUNK + b"5;", b"name=value;"),
        (CHUNK, b"0" * 500),
        (b"", b"1;" + b"e" * 3000 + b"\r\na\r\n"),
    ],
    ids=[
        "trailers",
        "a-trailer",
        "a-trailer's-name",
        "extensions",
        "chunk-size",
        "extensions-of-small-chunks",
    ],
)
def test_what_surrounds_a_body_is_bounded(quick: Live, before: bytes, piece: bytes):
    with connect(quick) as connection:
        connection.sendall(CHUNKED + b"\r\n" + before)
        sent = pour(connection, piece * 100, 12_000_000)
        answer = rest(connection)
    assert sent < 12_000_000
    assert not answer or statuses(answer)[0] in (400, 431)
    assert quick.ask("/v1/embeddings", {"input": "paris"})


def test_trailers_within_the_limits_are_read_over(quick: Live):
    trailers = b"".join(b"x-%d: a\r\n" % index for index in range(10))
    answer = exchange(quick, CHUNKED + b"Connection: close\r\n\r\n" + CHUNK + b"0\r\n" + trailers + b"\r\n")
    assert statuses(answer) == [200]
    over = b"".join(b"x-%d: a\r\n" % index for index in range(30))
    answer = exchange(quick, CHUNKED + b"Connection: close\r\n\r\n" + CHUNK + b"0\r\n" + over + b"\r\n")
    assert statuses(answer) == [431]


def test_a_trailer_is_no_header(locked: Live):
    head = (
        CHUNKED
        + b"Connection: close\r\n\r\n"
        + CHUNK
        + b"0\r\nAuthorization: Bearer "
        + KEY.encode()
        + b"\r\n\r\n"
    )
    assert statuses(exchange(locked, head)) == [401]


@pytest.mark.parametrize(
    "piece",
    [b"\r\n" * 2000, b"\n" * 4000, b" " * 4000, b"\x00" * 4000],
    ids=["lines", "newlines", "spaces", "zeros"],
)
def test_white_space_is_no_way_to_stay(quick: Live, piece: bytes):
    with connect(quick) as connection:
        assert pour(connection, piece, 12_000_000) < 12_000_000
        answer = rest(connection)
    assert not answer or statuses(answer)[0] in (400, 431)


@pytest.mark.parametrize(
    ("path", "head", "status"),
    [
        ("/v1/embeddings", b"", 401),
        ("/nothing", b"Authorization: Bearer k\r\n", 404),
        ("/live", b"", 405),
        ("/ping", b"", 200),
        ("/v1/embeddings", b"Authorization: Bearer k\r\n", 400),
    ],
    ids=["no-key", "no-route", "no-method", "health", "media-type"],
)
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5000\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"]
)
def test_an_answer_to_an_unread_body_ends_the_connection(
    locked: Live, path: str, head: bytes, status: int, framing: bytes
):
    before = held(locked)
    with connect(locked) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n" % path.encode() + head + framing + b"\r\n")
        answer = rest(connection)  # until the server's end: nothing more is sent
        assert statuses(answer) == [status]
        assert b"connection: close" in answer.lower()
    until(lambda: held(locked) <= before)


def test_a_body_that_does_not_come_is_answered_and_let_go(quick: Live):
    with connect(quick) as connection:
        connection.sendall(CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: 100") + b"\r\n{")
        answer = rest(connection)
    assert statuses(answer) == [408]


def test_an_answered_connection_that_keeps_sending_is_cut_off(models: Callable[[str], Model]):
    with (
        live(models("minilm_like"), settings=Settings(api_keys=(KEY,))) as server,
        connect(server) as connection,
    ):
        connection.sendall(CHUNKED + b"\r\n" + b"5\r\nabcde\r\n")
        until(lambda: held(server) == 1)
        protocol = next(iter(server.server.server_state.connections))
        until(lambda: protocol.state == 4)  # pyright: ignore[reportAttributeAccessIssue]
        protocol._linger_left = 100_000  # pyright: ignore[reportAttributeAccessIssue]
        assert pour(connection, b"1000\r\n" + b"a" * 4096 + b"\r\n", 20_000_000) < 20_000_000
    until(lambda: held(server) == 0)


def test_a_large_body_can_read_its_413(quick: Live):
    body = b"x" * 20_000_000
    with connect(quick) as connection:
        head = (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
            b"application/json\r\nContent-Length: %d\r\n\r\n"
        ) % len(body)
        connection.sendall(head)
        connection.sendall(body)
        answer = rest(connection)
    assert statuses(answer) == [413]
    assert b"--max-body-bytes" in answer


def test_connections_beyond_the_limit_make_the_idle_ones_go(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(max_connections=20, body_timeout_s=30)) as server:
        idle: list[socket.socket] = []
        try:
            for index in range(100):
                idle.append(connect(server))
                if index % 2:
                    idle[-1].sendall(
                        CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: 100") + b"\r\n{"
                    )
            until(lambda: held(server) <= 20 + 1)
            for _ in range(3):
                assert statuses(
                    exchange(server, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                ) == [200]
        finally:
            for connection in idle:
                connection.close()


def test_an_answer_that_is_not_taken_is_given_up(quick: Live):
    body = json.dumps({"input": [f"paris {number}" for number in range(2000)]}).encode()
    head = (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
        b"application/json\r\nContent-Length: %d\r\n\r\n"
    ) % len(body)
    before = held(quick)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", quick.port))
        for _ in range(6):
            connection.sendall(head + body)
        until(lambda: held(quick) == before + 1)
        until(lambda: held(quick) == before)


def test_requests_sent_ahead_are_bounded(quick: Live):
    request = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(quick) as connection:
        connection.sendall(request * 5000)
        answers = rest(connection)
    assert set(statuses(answers)) == {200}
    assert 64 <= len(statuses(answers)) < 1000


def test_a_few_requests_sent_ahead_are_answered_in_order(quick: Live):
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/live", b"/nothing") * 10)
    with connect(quick) as connection:
        connection.sendall(requests + b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(rest(connection)) == [200, 404] * 10 + [200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /live HTTP/1.1\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\nhost: a\r\n",
        b"GET /live HTTP/1.0\r\nHost: a\r\nHost: a\r\n",
        b"GET /live HTTP/1.1\r\nHost: a b\r\n",
        b"GET /live HTTP/1.1\r\nHost: a/b\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\nX-A: b\x00c\r\n",
        b"GET /li\x00ve HTTP/1.1\r\nHost: a\r\n",
        b"GET /live?\xff HTTP/1.1\r\nHost: a\r\n",
        b"GET /l\xc3\xa4 HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost : a\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\n folded\r\n",
    ],
)  # fmt: skip
def test_a_head_of_two_meanings_is_refused(quick: Live, head: bytes):
    answer = exchange(quick, head + b"\r\n")
    assert statuses(answer) == [400]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400


def test_other_versions_are_refused(quick: Live):
    assert statuses(exchange(quick, b"GET /live HTTP/2.0\r\nHost: a\r\n\r\n")) == [505]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /live HTTP/1.0\r\n",
        b"GET http://other.example/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
        b"GET /live HTTP/1.1\r\nHost:\r\nConnection: close\r\n",
        b"GET /live HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n",
        b"GET /%6cive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
    ],
    ids=["http-1.0", "absolute", "empty-host", "ipv6", "escaped"],
)
def test_every_form_of_a_target_is_answered(quick: Live, head: bytes):
    assert statuses(exchange(quick, head + b"\r\n")) == [200]


@pytest.mark.parametrize(
    "offer",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        (
            b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "
            b"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        ),
        b"Upgrade: TLS/1.0\r\nConnection: keep-alive, Upgrade\r\n",
        b"Connection: Upgrade\r\nConnection: keep-alive\r\nUpgrade: h2c, foo/2\r\n",
    ],
    ids=["h2c", "websocket", "tls", "several"],
)
@pytest.mark.parametrize("split", [False, True], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_upgrade_that_is_not_offered_changes_nothing(
    quick: Live, offer: bytes, split: bool, chunked: bool
):
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(BODY)
    body = CHUNK + b"0\r\n\r\n" if chunked else BODY
    request = (
        b"POST /v1/embeddings HTTP/1.1\r\n"
        + offer
        + b"Host: x\r\nContent-Type: application/json\r\n"
        + framing
        + b"\r\n"
        + body
    )
    plain = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(quick) as connection:
        for piece in [request[:40], request[40:150], request[150:-3], request[-3:]] if split else [request]:
            connection.sendall(piece)
            time.sleep(0.02 * split)
        connection.sendall(plain)
        assert statuses(rest(connection)) == [200, 200]


def test_without_its_offer_an_upgrade_keeps_every_other_header(quick: Live):
    head = (
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nX-Request-Id: a,upgrade,b\r\nConnection: close, "
        b"Upgrade\r\n\r\n"
    )
    answer = exchange(quick, head)
    assert statuses(answer) == [200]
    assert b"connection: close\r\n" in answer.lower(), "it asked to be closed"
    assert b"x-request-id: a,upgrade,b\r\n" in answer.lower()


def test_a_compressed_body_is_refused_by_name(quick: Live):
    import gzip

    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    refused = quick.client.post("/v1/embeddings", content=gzip.compress(BODY), headers=headers)
    assert refused.status_code == 415
    assert "gzip" in refused.json()["error"]["message"]
    assert (
        quick.client.post(
            "/v1/embeddings", content=BODY, headers=headers | {"content-encoding": "identity"}
        ).status_code
        == 200
    )


def test_a_long_query_string_counts_as_a_header(quick: Live):
    assert quick.client.get("/live?" + "a" * 5000).status_code == 431
    assert quick.client.get("/live?" + "a" * 500).status_code == 200


@pytest.mark.parametrize(
    ("version", "wish", "kept"),
    [
        (b"1.1", b"", True), (b"1.1", b"Connection: close\r\n", False), (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)  # fmt: skip
def test_a_connection_is_kept_in_http_1_1_unless_asked_otherwise(
    quick: Live, version: bytes, wish: bytes, kept: bool
):
    with connect(quick) as connection:
        connection.sendall(b"GET /live HTTP/%s\r\nHost: x\r\n%s\r\n" % (version, wish))
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(rest(connection)) == ([200, 200] if kept else [200])


def test_a_head_begun_under_an_answer_has_its_time_afterwards(artifacts: Callable[[str], Path]):
    settings = Settings(body_timeout_s=0.3, keep_alive_s=60)
    with waiting(artifacts("minilm_like"), settings) as (server, gate), connect(server) as connection:
        connection.sendall(CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n")
        assert gate.entered.wait(SOON_S)
        connection.sendall(b"GET /live HTTP/1.1\r\nx-a")
        time.sleep(0.05)
        gate.go.set()
        answers = rest(connection)
    assert statuses(answers) == [200, 408]
    assert b"headers did not arrive within 0.3 s" in answers


class Busy:
    """A connection that is at work and stays so."""

    state, since, unsent_since = WORK, 0.0, 0.0

    def look(self, now: float) -> int:
        return 0

    def evict(self) -> None:
        raise AssertionError("who is at work stays")


def test_when_all_are_at_work_probes_are_answered_and_others_told_to_come_back(
    models: Callable[[str], Model],
):
    live_request, other = (b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/live", b"/v1/models"))
    with live(models("minilm_like"), settings=Settings(max_connections=16, keep_alive_s=1)) as server:
        clock = server.server.config.http_protocol_class.clock  # pyright: ignore[reportAttributeAccessIssue]
        busy = [Busy() for _ in range(16 + SPARE)]
        clock.connections.update(busy[:15])
        assert statuses(exchange(server, other)) == [200], "the sixteenth"
        until(lambda: len(clock.connections) == 15)
        clock.connections.update(busy[:16])
        answer = exchange(server, other)
        assert statuses(answer) == [503]
        assert b"retry-after: 1\r\n" in answer.lower()
        assert b"connection: close\r\n" in answer.lower()
        assert statuses(exchange(server, live_request)) == [200]
        until(lambda: len(clock.connections) == 16)
        clock.connections.update(busy)
        with connect(server) as connection:
            assert rest(connection) == b"", "beyond those spared nobody is let in"
        clock.connections.difference_update(busy)


@pytest.mark.parametrize(
    ("request_bytes", "most"),
    [
        (b"GET /live HTTP/1.1\r\n\r\n", 1 << 20),
        (CHUNKED.replace(b"/embeddings", b"/nothing") + b"\r\n", 1 << 30),
    ],
    ids=["a-refused-head", "the-rest-of-a-body"],
)
def test_what_an_answered_client_still_sends_is_read_up_to_a_bound(
    quick: Live, request_bytes: bytes, most: int
):
    before = connections_of(quick)
    with connect(quick) as connection:
        connection.sendall(request_bytes)
        until(lambda: any(one.state == LINGER for one in connections_of(quick) if one not in before))
        (lingering,) = (one for one in connections_of(quick) if one not in before)
        assert lingering._linger_left == most
        connection.sendall(b"x" * 1000)
        until(lambda: lingering._linger_left == most - 1000)
    until(lambda: lingering not in connections_of(quick))


def connections_of(server: Live) -> list[Any]:
    return list(server.server.server_state.connections)


def test_every_answer_is_counted_and_every_connection_forgotten(quick: Live):
    clock, before = quick.server.config.http_protocol_class.clock, quick.server.server_state.total_requests  # pyright: ignore[reportAttributeAccessIssue]
    assert statuses(
        exchange(quick, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /live HTTP/1.0\r\n\r\n")
    ) == [200, 200, 200]
    assert quick.server.server_state.total_requests >= before + 3
    until(lambda: {id(one) for one in clock.connections} == {id(one) for one in connections_of(quick)})


def test_a_broken_request_behind_another_ends_both(artifacts: Callable[[str], Path]):
    """Its refusal would be read as the answer that is due."""
    with waiting(artifacts("minilm_like"), Settings()) as (server, gate), connect(server) as connection:
        connection.sendall(CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n")
        assert gate.entered.wait(SOON_S)
        connection.sendall(CHUNKED + b"\r\nzz\r\n")
        assert rest(connection) == b""
        gate.go.set()
        assert server.ask("/v1/embeddings", {"input": "paris"})
