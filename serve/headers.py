"""Single headers of a request, read from the ASGI scope.

Starlette's mapping of all headers is built anew for every request.
"""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """Returns the first header of that name (in lower case), or None. A scope that is no request has none."""
    for key, value in scope.get("headers", ()):
        if key == name:
            return value.decode("latin-1")
    return None


def declared_bytes(scope: Scope) -> int:
    """Returns the Content-Length of a request, in bytes; 0 where it has none, or one that is no number."""
    length = header(scope, b"content-length") or ""
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
