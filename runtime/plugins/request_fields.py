"""What the processors that come with poolrt share."""

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
    """`data` as an object that has an input."""
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
    found = data.get(name, default)
    if found not in choices:
        known = ", ".join(map(repr, choices))
        raise InputError(f"data.{name}: expected one of {known}, found {str(found)[:100]!r}", field="data")
    return found


def flag(data: dict[str, Any], name: str) -> bool | None:
    found = data.get(name)
    if found is not None and not isinstance(found, bool):
        raise InputError(
            f"data.{name}: expected true, false or null, found {str(found)[:100]!r}", field="data"
        )
    return found
