"""Single headers of a request, straight from the ASGI scope: Starlette's mapping of all of them is
made anew for every request."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name (lower case), or None. Scopes that are no request have none."""
    for key, value in scope.get("headers", ()):
        if key == name:
            return value.decode("latin-1")
    return None


def declared_bytes(scope: Scope) -> int:
    """The size that a request's head says its body has; 0 where it says none, or what is no number."""
    told = header(scope, b"content-length") or ""
    return int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
