"""An HTTP request and its response as values, which cross from one process of Ray to another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Headers = tuple[tuple[bytes, bytes], ...]
BEGINNING = 2048
"""Characters of a prompt that decide where it is computed."""
QUERIES = ("query", "text_1", "queries", "data_1")
TEXTS = ("input", "inputs", "texts", "text")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A whole request."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    scheme: str = "http"
    client: tuple[str, int] | None = None
    prompt: str = field(default="", compare=False)
    """What its texts begin with; the router of `sticky` reads it."""
    model: str = ""
    """What the request calls its model; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole response."""

    status: int
    headers: Headers
    body: bytes
    table: str = ""
    """Digest of the artifacts of the replica, by which a front notices that they changed."""


MODELS = ("/v1/models/", "/models/")


def model_of(path: str, request: Mapping[str, Any]) -> str:
    """The name of the model that a request is for; empty where it has none."""
    for prefix in MODELS:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    name = request.get("model") or (request.get("name") if path.startswith("/api/") else None)
    return name if isinstance(name, str) else ""


def parsed(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; an empty one where it is none, which the application refuses."""
    if not body.lstrip().startswith(b"{"):
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def beginning(request: Mapping[str, Any]) -> str:
    """What the prompts of a request begin with: the query that all documents are compared with, else the
    first text. Requests that are alike in it share a prefix."""
    for name in (*QUERIES, "messages", *TEXTS):
        value = request.get(name)
        if value:
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value[:1] if isinstance(value, list) else value)
            )
            return f"{request.get('instruction') or ''}{text}"[:BEGINNING]
    return ""
