"""A page that is sent as one file: its HTML with the styles and scripts of `assets/` inside.

It is put together once and served from memory. A page fetches nothing from other servers, which its
Content-Security-Policy enforces: the hashes allow the page's own styles and scripts, and Trusted Types make
it an error to parse any text as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

ASSETS = files(cast(str, __package__)).joinpath("assets")
INCLUDED = re.compile(r"^@([\w./]+\.(?:css|js|html))\n", re.MULTILINE)
"""A line of HTML in whose place the file of that name stands."""


@dataclass(frozen=True, slots=True)
class Page:
    content: bytes
    headers: dict[str, str]

    async def respond(self, request: Request) -> Response:
        """The page, or 304 where the browser has it already."""
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers, media_type="text/html")


def assembled(name: str) -> Page:
    """The page of an HTML file of `assets/`."""
    html = ASSETS.joinpath(name).read_text("utf-8")
    content = INCLUDED.sub(lambda line: ASSETS.joinpath(line[1]).read_text("utf-8"), html).encode()
    headers = {
        "Content-Security-Policy": policy(content),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return Page(content, headers)


def policy(page: bytes) -> str:
    """A Content-Security-Policy that allows the scripts and styles of the page, and nothing else."""

    def hashes(tag: bytes) -> str:
        inside: list[bytes] = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inside
        )

    rules = (
        "default-src 'none'",
        f"script-src {hashes(b'script')}",
        f"style-src {hashes(b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return "; ".join(rules)
