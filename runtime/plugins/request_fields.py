"""Reads the fields of a request's `data`, for the processors that come with poolrt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


def fields(data: Any, example: str) -> dict[str, Any]:
    """Returns `data` as an object that has an input. Raises InputError, which shows the example."""
    if not isinstance(data, dict):
        raise InputError(
            f"data: expected an object such as {example}, found {type(data).__name__}", field="data"
        )
    if data.get("input") is None:
        raise InputError(
            f"data.input is missing: expected a text, token ids or a list of them, as in {example}",
            field="data",
        )
    return data


def choice(data: dict[str, Any], name: str, choices: tuple[str, ...], default: str | None = None) -> str:
    """Returns a field that holds one of the choices. Raises InputError for any other value."""
    value = data.get(name, default)
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise InputError(f"data.{name}: expected one of {known}, found {str(value)[:100]!r}", field="data")
    return value


def flag(data: dict[str, Any], name: str) -> bool | None:
    """Returns a field that holds true, false or nothing. Raises InputError for any other value."""
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(
            f"data.{name}: expected true, false or null, found {str(value)[:100]!r}", field="data"
        )
    return value
