"""JSON objects given in parts: merged, and spelled as flags with dots (`--hf-overrides.rope.factor 2`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import InputError


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, objects inside objects merged key by key. Changes neither."""
    both = dict(base)
    for key, value in over.items():
        inner = both.get(key)
        both[key] = (
            merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return both


def gathered(objects: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All of them merged; a later one wins."""
    whole: dict[str, Any] = {}
    for value in objects:
        whole = merged(whole, value)
    return whole


def dotted(path: str, text: str) -> dict[str, Any]:
    """What vLLM's `--flag.a.b TEXT` stands for: `{"a": {"b": ...}}` with the text's value, JSON
    where it can be read as such."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *outer, last = path.split(".")
    whole = {last: value}
    for key in reversed(outer):
        whole = {key: whole}
    return whole


def undotted(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with each of these flags once, behind all others and as JSON, however it was spelled and
    as often as it was given."""
    rest: list[str] = []
    objects: dict[str, list[dict[str, Any]]] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, has_value, text = argument.partition("=")
        flag, dot, path = name.partition(".")
        if flag not in flags:
            rest.append(argument)
            continue
        if not has_value:
            if not waiting:
                raise InputError(f"{name}: a value is expected", field=flag)
            text = waiting.pop(0)
        try:
            value = dotted(path, text) if dot else json_object(text)
        except ValueError as error:
            raise InputError(f"{name}: {error}", field=flag) from None
        objects.setdefault(flag, []).append(value)
    return [
        *rest,
        *(part for flag, values in objects.items() for part in (flag, json.dumps(gathered(values)))),
    ]


def json_object(text: str) -> dict[str, Any]:
    """Raises ValueError for what is not JSON, or no object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
