"""JSON objects that come in several parts: merged, or spelled as flags with dots
(`--hf-overrides.rope.factor 2`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def inlined(arguments: Sequence[str], json_flag: Callable[[str], str | None]) -> list[str]:
    """The arguments with each dotted flag and its value as `--flag JSON`, in their place.

    What stands behind `--` stays as it is. Raises InputError for a flag without a value.

    Args:
        json_flag: the name of a flag as the parser knows it; None: the flag takes no JSON.
    """
    plain: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*plain, argument, *rest]
        name, has_value, text = argument.partition("=")
        prefix, dot, path = name.partition(".")
        flag = json_flag(prefix) if dot and prefix.startswith("--") else None
        if flag is None:
            plain.append(argument)
            continue
        value = text if has_value else next(rest, None)
        if value is None:
            raise InputError(f"{name}: a value is expected", field=flag)
        plain += [flag, json.dumps(dotted(path, value))]
    return plain


def undotted(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with each of these flags once, as JSON and behind all others, in front of `--`.

    Raises InputError for a flag without a value, and for one that is no JSON object.
    """
    plain = inlined(arguments, lambda name: name if name in flags else None)
    end = plain.index("--") if "--" in plain else len(plain)
    others: list[str] = []
    objects: dict[str, list[dict[str, Any]]] = {}
    rest = iter(plain[:end])
    for argument in rest:
        flag, has_value, text = argument.partition("=")
        if flag not in flags:
            others.append(argument)
            continue
        value = text if has_value else next(rest, None)
        if value is None:
            raise InputError(f"{flag}: a value is expected", field=flag)
        try:
            objects.setdefault(flag, []).append(json_object(value))
        except ValueError as error:
            raise InputError(f"{flag}: {error}", field=flag) from None
    merged_flags = [part for flag, values in objects.items() for part in (flag, json.dumps(gathered(values)))]
    return [*others, *merged_flags, *plain[end:]]


def json_object(text: str) -> dict[str, Any]:
    """Returns the object that a text spells. Raises ValueError for a text that is not JSON, or no object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
