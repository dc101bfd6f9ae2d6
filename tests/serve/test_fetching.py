"""Pictures from other servers: what is checked, bounded and refused.

The other servers are real sockets on loopback, which the rules refuse. So tests hand the fetcher a resolver
and a rule of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from poolrt.serve.errors import ApiError
from poolrt.serve.media import addresses
from poolrt.serve.media.allowance import Allowance
from poolrt.serve.media.fetching import Fetcher

PICTURE = b"\x89PNG" + bytes(range(256)) * 40


@contextmanager
def remote(answer: Callable[[str], list[bytes]], tls: ssl.SSLContext | None = None) -> Iterator[Remote]:
    """A server that sends `answer(target)` piece by piece, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Remote(listening, answer, tls)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield server
        server.stopping = True
        socket.create_connection(listening.getsockname()).close()
        thread.join(5)


class Remote:
    def __init__(
        self, listening: socket.socket, answer: Callable[[str], list[bytes]], tls: ssl.SSLContext | None
    ) -> None:
        self.listening, self.answer, self.tls = listening, answer, tls
        self.port = listening.getsockname()[1]
        self.heads: list[bytes] = []
        self.names: list[str | None] = []
        self.stopping = False
        if tls is not None:
            tls.sni_callback = lambda _, name, __: self.names.append(name)

    def run(self) -> None:
        while True:
            sock, _ = self.listening.accept()
            if self.stopping:
                sock.close()
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := sock.recv(65536)):
                    return
                head += piece
            self.heads.append(head)
            for piece in self.answer(head.split()[1].decode()):
                sock.sendall(piece)
        except OSError:
            pass
        finally:
            sock.close()


def ok(content: bytes = PICTURE, *headers: bytes, length: int | None = None) -> list[bytes]:
    size = len(content) if length is None else length
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % size
    return [head + b"".join(header + b"\r\n" for header in headers) + b"\r\n", content]


def to(*texts: str) -> Any:
    """A resolver with the same addresses for every name."""

    async def resolve(host: str, port: int) -> list[addresses.Address]:
        return [ip_address(text) for text in texts]

    return resolve


def fetch(
    url: str,
    domains: tuple[str, ...],
    *,
    resolve: Any = None,
    refuse: Any = lambda address: None,
    most: int = 1 << 20,
    limit_s: float = 5.0,
    redirects: bool = True,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    fetcher = Fetcher(
        domains, redirects=redirects, resolve=resolve or to("127.0.0.1"), refuse=refuse, tls=tls
    )
    allowance = Allowance(most, lambda size: None)
    return asyncio.run(fetcher.fetch(url, limit_s=limit_s, allowance=allowance))


def refused(url: str, domains: tuple[str, ...], **more: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        fetch(url, domains, **more)
    return raised.value


def test_a_picture_of_an_allowed_host_is_fetched():
    with remote(lambda target: ok()) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"http://{domain}/x.png?q=1#top", (domain,)) == PICTURE
    head = server.heads[0].decode()
    assert head.startswith("GET /x.png?q=1 HTTP/1.1\r\n")
    assert f"host: {domain}\r\n" in head.lower()
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()


def test_chunked_bodies_and_bodies_without_a_length_are_read():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    with remote(lambda target: [chunked] if target == "/c" else [b"HTTP/1.0 200 OK\r\n\r\nhello!"]) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"http://{domain}/c", (domain,)) == b"hello!"
        assert fetch(f"http://{domain}/plain", (domain,)) == b"hello!"


def test_nothing_is_fetched_unless_hosts_are_named():
    with remote(lambda target: ok()) as server:
        error = refused(f"http://a.example:{server.port}/", ())
        assert (error.status, error.param) == (400, None)
        assert "--allowed-media-domains" in str(error)
        error = refused(f"http://a.example:{server.port}/", ("b.example",))
        assert str(error).startswith("The URL must be from one of the allowed domains")
        assert server.heads == []


@pytest.mark.parametrize(
    "resolves",
    [("127.0.0.1",), ("1.1.1.1", "127.0.0.1"), ("127.0.0.1", "1.1.1.1"), ("::ffff:127.0.0.1",), ("::1",)],
)
def test_a_name_with_one_address_inside_the_network_is_refused(resolves):
    with remote(lambda target: ok()) as server:
        domain = f"a.example:{server.port}"
        error = refused(f"http://{domain}/", (domain,), resolve=to(*resolves), refuse=addresses.refusal)
        assert (error.status, error.param) == (400, None)
        assert server.heads == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0"])
def test_loopback_is_refused_however_it_is_spelled(host):
    fetcher = Fetcher(("*", f"{host}:80"))
    with pytest.raises(ApiError) as raised:
        asyncio.run(fetcher.fetch(f"http://{host}/", limit_s=5, allowance=Allowance(100, lambda size: None)))
    assert raised.value.status in (400, 502)  # 502: this system's resolver does not know the spelling


def test_a_name_that_resolves_differently_the_second_time_leads_nowhere_else():
    """DNS rebinding: the connection goes to the address that was checked, and the name is resolved once."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    hosts: list[str] = []

    async def resolve(host: str, port: int) -> list[addresses.Address]:
        hosts.append(host)
        return [ip_address(text) for text in answers[len(hosts) - 1]]

    with remote(lambda target: ok()) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"http://{domain}/", (domain,), resolve=resolve) == PICTURE
    assert hosts == ["a.example"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1/", "//localhost/", "file:///etc/passwd",
        "http://user:password@a.example/", "gopher://a.example/", "http://a.example:22/", "/\x00", "http://[/",
    ],
)  # fmt: skip
def test_a_redirect_is_checked_like_a_first_url(location):
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".replace("\x00", "\\").encode()
    with remote(lambda target: [answer]) as server:
        domain = f"a.example:{server.port}"
        error = refused(f"http://{domain}/", (domain,))
    assert (error.status, error.param) == (400, None)
    assert len(server.heads) == 1


def test_the_address_of_a_redirect_is_checked_too():
    def answer(target: str) -> list[bytes]:
        return [f"HTTP/1.1 302 Found\r\nLocation: http://b.example:{server.port}/\r\n\r\n".encode()]

    async def resolve(host: str, port: int) -> list[addresses.Address]:
        return [ip_address("127.0.0.1" if host == "a.example" else "10.0.0.1")]

    def refuse(address: addresses.Address) -> str | None:
        return None if address == ip_address("127.0.0.1") else addresses.refusal(address)

    with remote(answer) as server:
        domains = (f"a.example:{server.port}", f"b.example:{server.port}")
        error = refused(f"http://{domains[0]}/", domains, resolve=resolve, refuse=refuse)
    assert error.status == 400
    assert "b.example" in str(error)


def test_redirects_are_followed_a_few_times_or_not_at_all():
    def answer(target: str) -> list[bytes]:
        left = int(target.strip("/"))
        if left == 0:
            return ok()
        return [f"HTTP/1.1 307 Temporary\r\nLocation: /{left - 1}\r\nContent-Length: 0\r\n\r\n".encode()]

    with remote(answer) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"http://{domain}/3", (domain,)) == PICTURE
        assert refused(f"http://{domain}/4", (domain,)).status == 422
        assert refused(f"http://{domain}/1", (domain,), redirects=False).status == 422


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        (400, 422),
        (403, 422),
        (404, 422),
        (410, 422),
        (304, 422),
        (408, 502),
        (429, 502),
        (500, 502),
        (503, 502),
    ],
)
def test_the_status_of_the_other_server_decides_ours(status, ours):
    with remote(lambda target: [b"HTTP/1.1 %d Some\r\nContent-Length: 3\r\n\r\nabc" % status]) as server:
        domain = f"a.example:{server.port}"
        error = refused(f"http://{domain}/", (domain,))
    assert error.status == ours
    assert str(error).startswith(f"Failed to fetch media from URL: HTTP {status} error")
    assert error.param == ("image_url" if ours == 422 else None)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"],
        [b"not http at all\r\n\r\n"],
        [b""],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ],
    ids=["cut off", "no http", "silent", "two lengths", "endless header", "bad chunk"],
)
def test_a_response_that_is_no_http_is_a_bad_gateway(pieces):
    with remote(lambda target: pieces) as server:
        domain = f"a.example:{server.port}"
        assert refused(f"http://{domain}/", (domain,)).status == 502


def test_more_bytes_than_admitted_are_not_read():
    with remote(lambda target: ok(b"a" * 1000)) as server:
        domain = f"a.example:{server.port}"
        assert len(fetch(f"http://{domain}/", (domain,), most=1000)) == 1000
        error = refused(f"http://{domain}/", (domain,), most=999)
    assert (error.status, error.param) == (422, "image_url")
    assert "999 bytes" in str(error)


def test_a_body_longer_than_it_says_is_cut_off_at_the_limit():
    endless = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"a" * 10_000] * 100]
    with remote(lambda target: endless) as server:
        domain = f"a.example:{server.port}"
        assert refused(f"http://{domain}/", (domain,), most=50_000).status == 422


def test_a_compressed_body_is_refused():
    with remote(lambda target: ok(PICTURE, b"Content-Encoding: gzip")) as server:
        domain = f"a.example:{server.port}"
        assert refused(f"http://{domain}/", (domain,)).status == 422


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
)
def test_a_server_that_stops_sending_is_a_gateway_timeout(sent):
    over = threading.Event()

    def answer(target: str) -> Any:
        yield sent
        over.wait(20)

    with remote(answer) as server:
        domain = f"a.example:{server.port}"
        error = refused(f"http://{domain}/", (domain,), limit_s=0.2)
        over.set()
    assert error.status == 504


def test_a_host_without_address_or_listener_is_a_bad_gateway():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    domain = f"a.example:{port}"
    assert refused(f"http://{domain}/", (domain,)).status == 502
    assert refused(f"http://{domain}/", (domain,), resolve=to()).status == 502

    async def failing(host: str, port: int) -> list[addresses.Address]:
        raise socket.gaierror("no such name")

    assert refused(f"http://{domain}/", (domain,), resolve=failing).status == 502


def test_the_next_address_is_tried_where_one_does_not_connect():
    with remote(lambda target: ok()) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"http://{domain}/", (domain,), resolve=to("::1", "127.0.0.1")) == PICTURE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_checks_the_certificate_against_the_name(tmp_path: Path):
    key, certificate = tmp_path / "key", tmp_path / "crt"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=a.example -addext subjectAltName=DNS:a.example -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with remote(lambda target: ok(), server_tls) as server:
        domain = f"a.example:{server.port}"
        assert fetch(f"https://{domain}/x", (domain,), tls=trusting) == PICTURE
        assert server.names == ["a.example"]
        assert f"host: {domain}".encode() in server.heads[0].lower()
        # The system does not know this authority; and the certificate is for another name.
        assert refused(f"https://{domain}/x", (domain,)).status == 502
        other = f"b.example:{server.port}"
        assert refused(f"https://{other}/x", (other,), tls=trusting).status == 502
