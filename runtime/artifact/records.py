"""Frozen dataclasses from and to plain JSON/TOML values, refusing what they do not declare.

Everything that crosses a boundary (recipe, manifest, request) is read so. Unknown keys, missing keys and
wrong types are collected and reported at once, each with its path (`engines[0].profiles[1].best`). Only
records that are `Descriptive` may hold more.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

Record = TypeVar("Record")


class RecordError(ValueError):
    """All that is wrong with one value; `problems` are lines of `path: what`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)

    @property
    def only_unknown(self) -> bool:
        """Whether nothing is wrong but keys that nobody declares."""
        return all(": unknown key;" in line for line in self.problems)


class Descriptive:
    """A record that only describes: nothing in it changes what is computed. Keys that it does not declare are
    those of a newer writer, and are ignored."""

    __slots__ = ()


def from_plain(record: type[Record], value: object) -> Record:
    """Builds the dataclass `record` from what a JSON or TOML parser returned. Raises RecordError with every
    problem."""
    problems: list[str] = []
    converted = _convert(record, value, "", problems)
    if problems:
        raise RecordError(problems)
    return typing.cast(Record, converted)


def to_plain(value: object) -> Any:
    """The inverse. Dataclasses become dicts without the fields that equal their default, tuples become
    lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not _is_default(field, getattr(value, field.name))
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return type(value) is type(field.default) and value == field.default
    return field.default_factory is not dataclasses.MISSING and value == field.default_factory()


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _convert(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _record(typing.cast(type, kind), value, path, problems)
    if origin is Literal:
        # The types are compared too, since True == 1 must not pass as the choice 1.
        if not any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
            problems.append(
                f"{path or 'value'}: {value!r} is not one of {', '.join(map(repr, get_args(kind)))}"
            )
        return value
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), value, path, problems)
    if origin in (tuple, list):
        return _sequence(kind, value, path, problems)
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{path or 'value'}: expected an object, found {_name(value)}")
            return value
        _, item = get_args(kind)
        return {
            str(key): _convert(item, inner, f"{path}.{key}".lstrip("."), problems)
            for key, inner in value.items()
        }
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        problems.append(f"{path or 'value'}: expected {kind.__name__}, found {_name(value)}")
    return value


def _record(kind: type, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path or kind.__name__}: expected an object, found {_name(value)}")
        return value
    fields = {field.name: field for field in dataclasses.fields(kind)}
    before = len(problems)
    for key in () if issubclass(kind, Descriptive) else value:
        if key not in fields:
            problems.append(
                f"{f'{path}.{key}'.lstrip('.')}: unknown key; known are {', '.join(sorted(fields))}"
            )
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(
                _hints(kind)[name], value[name], f"{path}.{name}".lstrip("."), problems
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{f'{path}.{name}'.lstrip('.')}: missing")
    if len(problems) > before:
        return None
    try:
        return kind(**arguments)
    except ValueError as error:  # a record's own __post_init__ check
        problems.append(f"{path or kind.__name__}: {error}")
        return None


def _union(kinds: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if value is None and type(None) in kinds:
        return None
    tried: list[list[str]] = []
    for kind in kinds:
        if kind is type(None):
            continue
        attempt: list[str] = []
        converted = _convert(kind, value, path, attempt)
        if not attempt:
            return converted
        tried.append(attempt)
    problems.extend(min(tried, key=len))
    return value


def _sequence(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(f"{path or 'value'}: expected a list, found {_name(value)}")
        return value
    inner = get_args(kind)
    if get_origin(kind) is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        if len(value) != len(inner):
            problems.append(f"{path or 'value'}: expected {len(inner)} items, found {len(value)}")
            return value
        pairs = zip(inner, value, strict=True)
    else:
        pairs = ((inner[0], item) for item in value)
    items = [_convert(item, part, f"{path}[{index}]", problems) for index, (item, part) in enumerate(pairs)]
    return tuple(items) if get_origin(kind) is tuple else items


def _name(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
