"""Fetches pictures and videos from other servers, for requests that name them by URL.

Off unless --allowed-media-domains names hosts. Every address of a host's name is checked, and the
connection goes to a checked address, so that a name which resolves differently a moment later changes
nothing. A redirect is checked like the first URL. Bytes, time and redirects are bounded. Neither cookies nor
credentials are sent. h11 parses the response: it bounds the header block, and is what uvicorn builds on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import h11

from ..errors import ApiError
from . import addresses, urls
from .addresses import Address
from .allowance import Allowance
from .urls import Url, UrlError

if TYPE_CHECKING:
    from ..tracing.spans import Tracing

MOST_REDIRECTS = 3
MOST_AT_ONCE = 32
"""Fetches of all requests together; others wait, within their own time."""
_HEADER_BYTES = 64 * 1024
_CHUNK = 64 * 1024
_USER_AGENT = "poolrt"

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Refuse = Callable[[Address], str | None]


async def resolved(host: str, port: int) -> list[Address]:
    """Returns every address of a host's name. Raises OSError."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(addresses.parsed(str(entry[4][0])) for entry in entries))


class Fetcher:
    """Fetches by the rules of one server.

    Args:
        domains: --allowed-media-domains; empty: nothing is fetched.
        redirects: whether redirects are followed.
        resolve: host and port -> addresses; another one in tests only.
        refuse: address -> why it is refused; another one in tests only.
        tls: of https; None: the system's certificates.
        tracing: traces requests to other servers; None: they are not traced.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        *,
        redirects: bool = True,
        resolve: Resolve = resolved,
        refuse: Refuse = addresses.refusal,
        tls: ssl.SSLContext | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.domains = domains
        self.most_redirects = MOST_REDIRECTS if redirects else 0
        self._resolve = resolve
        self._refuse = refuse
        self._tls = tls
        self._turn: asyncio.Semaphore | None = None

    def check(self, text: str) -> Url:
        """Returns a URL that may be fetched. Raises ApiError (400) for any other, before anything is sent."""
        if not self.domains:
            raise ApiError(
                400,
                "this server fetches nothing from other servers: send the bytes in a data: URL, or start it "
                "with --allowed-media-domains HOST",
            )
        try:
            url = urls.read(text)
        except UrlError as error:
            raise ApiError(400, str(error)) from None
        self._check_domain(url)
        return url

    async def fetch(self, text: str, *, limit_s: float, allowance: Allowance) -> bytes:
        """Returns the body of a URL.

        Raises ApiError: 400 for a URL that is refused, 422 where the other server refuses, 502 where it fails
        or is not reached, 504 after `limit_s` seconds.
        """
        url = self.check(text)
        try:
            async with asyncio.timeout(limit_s):
                if self._turn is None:
                    self._turn = asyncio.Semaphore(MOST_AT_ONCE)
                async with self._turn:
                    return await self._followed(url, allowance)
        except TimeoutError:
            raise ApiError(
                504, f"Failed to fetch media from URL: {url.host} did not send it within {limit_s:g} s"
            ) from None

    async def _followed(self, url: Url, allowance: Allowance) -> bytes:
        for _ in range(self.most_redirects + 1):
            status, location, content = await self._exchanged(url, allowance)
            if location is None:
                return self._checked(status, content)
            try:
                url = urls.redirected(url, location)
            except UrlError as error:
                raise ApiError(400, f"a redirect of the URL is refused: {error}") from None
            self._check_domain(url)
        raise ApiError(
            422,
            f"Failed to fetch media from URL: more than {self.most_redirects} redirects",
            param="image_url",
        )

    def _check_domain(self, url: Url) -> None:
        if not urls.allowed(url, self.domains):
            raise ApiError(
                400,
                f"The URL must be from one of the allowed domains: {list(self.domains)}. Input URL domain: "
                f"{url.authority}",
            )

    async def _addresses(self, url: Url) -> Sequence[Address]:
        """Returns the addresses of the URL's host. Raises ApiError where one of them is refused."""
        try:
            resolved_addresses = await self._resolve(url.host, url.port)
        except (OSError, ValueError):
            resolved_addresses = ()
        if not resolved_addresses:
            raise ApiError(502, f"Failed to fetch media from URL: {url.host} has no address")
        for address in resolved_addresses:
            if (why := self._refuse(address)) is not None:
                raise ApiError(400, f"the URL is refused: an address of {url.host} {why}")
        return resolved_addresses

    async def _exchanged(self, url: Url, allowance: Allowance) -> tuple[int, str | None, bytes]:
        """Returns status, place of a redirect, and body of the response to one request."""
        if self._tracing is None:
            return await self._asked(url, allowance, {})
        bare = f"{url.scheme}://{url.authority}{url.target.partition('?')[0]}"
        with self._tracing.fetching(url.host, url.port, bare) as fetch:
            status, location, content = await self._asked(url, allowance, fetch.headers)
            fetch.responded(status)
            return status, location, content

    async def _asked(
        self, url: Url, allowance: Allowance, more: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        reader, writer = await self._connected(url)
        try:
            return await self._response(url, reader, writer, allowance, more)
        except (OSError, h11.RemoteProtocolError, asyncio.IncompleteReadError) as error:
            why = "broke the connection" if isinstance(error, OSError) else "sent no valid HTTP response"
            raise ApiError(502, f"Failed to fetch media from URL: {url.host} {why}") from None
        finally:
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _connected(self, url: Url) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = url.scheme == "https"
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
        for address in await self._addresses(url):
            try:
                return await asyncio.open_connection(
                    str(address),
                    url.port,
                    ssl=self._tls if secure else None,
                    server_hostname=url.host if secure else None,
                    limit=_CHUNK,
                )
            except OSError:  # the next address may do
                continue
        raise ApiError(502, f"Failed to fetch media from URL: no connection to {url.host}")

    async def _response(
        self,
        url: Url,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        allowance: Allowance,
        more: Mapping[str, str],
    ) -> tuple[int, str | None, bytes]:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
        headers = [
            ("Host", url.authority),
            ("User-Agent", _USER_AGENT),
            ("Accept", "image/*, video/*, */*;q=0.5"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            *more.items(),
        ]
        request = h11.Request(method="GET", target=url.target, headers=headers)
        for event in (request, h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        status = 0
        content = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
                values = {name.lower(): value.decode("latin-1") for name, value in event.headers}
                if 300 <= status < 400 and (location := values.get(b"location")):
                    return status, location, b""
                if not 200 <= status < 300:
                    return status, None, b""
                if values.get(b"content-encoding", "identity").strip().lower() != "identity":
                    raise ApiError(
                        422,
                        "Failed to fetch media from URL: the body is compressed, which was not asked for",
                        param="image_url",
                    )
                if (declared := values.get(b"content-length", "")).isdecimal():
                    allowance.declare(int(declared))
            elif isinstance(event, h11.Data):
                allowance.take(len(event.data))
                content += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return status, None, bytes(content)

    def _checked(self, status: int, content: bytes) -> bytes:
        """Returns the body of a response that succeeded. Raises ApiError for any other."""
        if 200 <= status < 300:
            return content
        if status in (408, 429) or status >= 500:
            raise ApiError(502, f"Failed to fetch media from URL: HTTP {status} error")
        raise ApiError(422, f"Failed to fetch media from URL: HTTP {status} error", param="image_url")
