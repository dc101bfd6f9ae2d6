"""URLs of pictures and videos. A URL is read here once, strictly, and the request is made of the parts read:
two readers that disagree about the host are how such checks are deceived (CVE-2026-24779)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urljoin, urlsplit

PORTS = {"http": 80, "https": 443}
MOST_CHARACTERS = 8192
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?)*"
)
_V6 = re.compile(r"[0-9a-f:.]{2,45}")
_DOMAIN = re.compile(r"(\[[^]]*\]|[^:]*):(\d+)")
_REFUSED = re.compile(r"[\x00-\x20\x7f\\]")
_SAFE = "/%:@!$&'()*+,;=~-._"


class UrlError(ValueError):
    """A URL that is not fetched. The text says why, as a sentence."""


@dataclass(frozen=True, slots=True)
class Url:
    """A URL with http or https, in parts."""

    scheme: Literal["http", "https"]
    host: str
    """Lower case, in ASCII, without the brackets of an IPv6 address."""
    port: int
    target: str
    """Path and query, percent-encoded."""

    @property
    def authority(self) -> str:
        """Host and port as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def read(text: str) -> Url:
    """Returns a URL in parts. Raises UrlError for what is no plain http or https URL, and for credentials."""
    if len(text) > MOST_CHARACTERS:
        raise UrlError(f"the URL is longer than {MOST_CHARACTERS} characters")
    if _REFUSED.search(text):
        raise UrlError("the URL holds a blank, a control character or a backslash")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UrlError("the URL is not valid") from None
    if parts.scheme not in ("http", "https"):
        raise UrlError("The URL must be either a HTTP, data or file URL.")
    if "@" in parts.netloc:
        raise UrlError("the URL holds a user name or a password, which are never sent")
    if parts.netloc.endswith(":") or port == 0:
        raise UrlError("the URL is not valid")
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE + "?")
    return Url(parts.scheme, host_of(parts.hostname or ""), port or PORTS[parts.scheme], target)


def host_of(text: str) -> str:
    """Returns a host's name in lower case and ASCII, without a dot at its end. Raises UrlError."""
    host = text.rstrip(".").lower()
    if ":" in host:
        if _V6.fullmatch(host):
            return host
        raise UrlError("the URL's host is not valid")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise UrlError("the URL's host is not valid") from None
    if not _HOST.fullmatch(host):
        raise UrlError("the URL's host is not valid")
    return host


def redirected(url: Url, location: str) -> Url:
    """Returns where a redirect leads. Raises UrlError as `read`, and for one from https to http."""
    try:
        joined = urljoin(str(url), location)
    except ValueError:
        raise UrlError("the URL is not valid") from None
    following = read(joined)
    if (url.scheme, following.scheme) == ("https", "http"):
        raise UrlError("the server redirects from https to http")
    return following


def allowed(url: Url, domains: tuple[str, ...]) -> bool:
    """Returns whether --allowed-media-domains admits the URL.

    An entry is a host, for its ports 80 and 443; `host:port`, for that port; or `*`, for every host.
    """
    standard = url.port in PORTS.values()
    for domain in domains:
        if domain == "*":
            if standard:
                return True
            continue
        written = _DOMAIN.fullmatch(domain)
        host, port = (written[1], written[2]) if written is not None else (domain, None)
        try:
            same = host_of(host.strip("[]")) == url.host
        except UrlError:
            continue
        if same and (str(url.port) == port if port else standard):
            return True
    return False
