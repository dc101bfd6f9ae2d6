"""Single headers of a request, read from the ASGI scope.

Starlette's mapping of all headers is built anew for every request.
"""

from __future__ import annotations

import random

from starlette.types import Scope

MOST_REQUEST_ID = 256
"""Characters of a client's request id that are kept."""
REQUEST_ID = "poolrt.request_id"
"""Scope key of the request's id."""


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


def identified(scope: Scope, own: str = "") -> str:
    """Returns the request's id: X-Request-Id, else `own`, else a random one that stays the same.

    Args:
        own: the id that its body has; empty: none, or not read yet.
    """
    if identifier := header(scope, b"x-request-id") or own:
        identifier = scope[REQUEST_ID] = identifier[:MOST_REQUEST_ID]
        return identifier
    if (identifier := scope.get(REQUEST_ID)) is None:
        identifier = scope[REQUEST_ID] = f"{random.getrandbits(64):016x}"  # as vLLM's
    return identifier
