"""JSON objects that come in several parts: merged, or spelled as flags with dots
(`--hf-overrides.rope.factor 2`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import InputError


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the keys of `over`, objects inside objects merged key by key. Changes neither."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = (
            merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return result


def gathered(objects: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns all objects merged; the value of a later one wins."""
    result: dict[str, Any] = {}
    for value in objects:
        result = merged(result, value)
    return result


def dotted(path: str, text: str) -> dict[str, Any]:
    """Returns the object of vLLM's `--flag.a.b TEXT`: `{"a": {"b": TEXT}}`, where TEXT is read
    as JSON if it is JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *outer, last = path.split(".")
    result = {last: value}
    for key in reversed(outer):
        result = {key: result}
    return result


def undotted(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Returns the arguments with each of these flags once: at the end, as JSON, the parts of all its
    spellings merged. Raises InputError for a flag without value, and for one that is no JSON object.

    Args:
        flags: such as `--hf-overrides`.
    """
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
    """Returns the object that a text spells. Raises ValueError for a text that is not JSON, or no object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
