"""Reads JSON values into annotated dataclasses, as leniently as the clients of vLLM are used to (docs/http.md 2.1).

`kind_of(annotation)` compiles an annotation once into a Kind, which reads a value and describes itself as JSON schema for the OpenAPI
document. Unknown fields are ignored; `"32"` and `1.0` are integers where an integer is asked; `"yes"`, `"off"`, 0 and 1 are booleans;
nothing becomes a string. Every problem is collected (problems.py), none raised. Reading costs time in proportion to the fields that a
request carries, not to those it could carry.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Union, get_args, get_origin

from ..runtime import cancellation
from .problems import Loc, Problem, enough

LOOK_EVERY = 1024
"""Items of a list that are read between two looks whether anybody still waits for it."""
MAX_DEPTH = 32
"""Nesting allowed in free-form values (messages, template variables): they are walked by recursion further down."""

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})
_MAX_DIGITS = 40
_SEPARATOR = re.compile(r"(?<=[0-9])_(?=[0-9])")


class Kind(Protocol):
    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        """The value as this kind; adds to `problems` when it is not. Without `lax` nothing is converted."""
        ...

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """For `Annotated[int, Bounds(least=0)]` and `Annotated[list[str], Bounds(least=1)]` (a length)."""

    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class About:
    """For `Annotated[..., About("...")]`: a sentence for the OpenAPI document."""

    text: str


class Text:
    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not str:
            problems.append(Problem("string_type", loc, "Input should be a valid string", value))
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Integer:
    bounds: Bounds = Bounds()

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not int:
            if not lax:
                problems.append(Problem("int_type", loc, "Input should be a valid integer", value))
                return value
            value = self._convert(value, loc, problems)
            if type(value) is not int:
                return value
        least, most = self.bounds.least, self.bounds.most
        if least is not None and value < least:
            problems.append(Problem("greater_than_equal", loc, f"Input should be greater than or equal to {least}", value, {"ge": least}))
        if most is not None and value > most:
            problems.append(Problem("less_than_equal", loc, f"Input should be less than or equal to {most}", value, {"le": most}))
        return value

    def _convert(self, value: Any, loc: Loc, problems: list[Problem]) -> Any:
        if type(value) is bool:
            return int(value)
        if type(value) is float:
            if value.is_integer():
                # orjson reads an integer below -2^63 as a float, which is rounded up to that bound.
                return int(value) - 1 if value == -(2.0**63) else int(value)
            problems.append(Problem("int_from_float", loc, "Input should be a valid integer, got a number with a fractional part", value))
        elif type(value) is str:
            text = _SEPARATOR.sub("", value.strip()) if len(value) <= 2 * _MAX_DIGITS else value
            if len(text) <= _MAX_DIGITS and text.removeprefix("-").removeprefix("+").isascii() and text.lstrip("+-").isdigit():
                return int(text) if text.count("-") + text.count("+") <= 1 else self._unread(value, loc, problems)
            return self._unread(value, loc, problems)
        else:
            problems.append(Problem("int_type", loc, "Input should be a valid integer", value))
        return value

    def _unread(self, value: Any, loc: Loc, problems: list[Problem]) -> Any:
        problems.append(Problem("int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer", value))
        return value

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "integer"}
        if self.bounds.least is not None:
            made["minimum"] = self.bounds.least
        if self.bounds.most is not None:
            made["maximum"] = self.bounds.most
        return made


class Flag:
    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is bool:
            return value
        if lax and type(value) in (int, float) and value in (0, 1):
            return bool(value)
        if lax and type(value) is str and len(value) <= 5:
            lowered = value.lower()
            if lowered in _TRUE or lowered in _FALSE:
                return lowered in _TRUE
        if type(value) in (int, str) or (type(value) is float and value.is_integer()):
            problems.append(Problem("bool_parsing", loc, "Input should be a valid boolean, unable to interpret input", value))
        else:
            problems.append(Problem("bool_type", loc, "Input should be a valid boolean", value))
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Choice:
    values: tuple[Any, ...]

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not str or value not in self.values:
            names = [repr(choice) for choice in self.values]
            expected = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
            problems.append(Problem("literal_error", loc, f"Input should be {expected}", value, {"expected": expected}))
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Null:
    inner: Kind

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        return None if value is None else self.inner.read(value, loc, problems, lax)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.inner.schema(), {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class Many:
    inner: Kind
    plain: type | None
    """str or int: a list holding only these is taken as it is, in one pass."""
    least: int | None = None

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not list:
            problems.append(Problem("list_type", loc, "Input should be a valid list", value))
            return value
        if self.least is not None and len(value) < self.least:
            text = f"List should have at least {self.least} item{'' if self.least == 1 else 's'} after validation, not {len(value)}"
            problems.append(Problem("too_short", loc, text, value))
            return value
        if self.plain is not None and set(map(type, value)) <= {self.plain}:
            return value
        made = []
        for index, item in enumerate(value):
            made.append(self.inner.read(item, (*loc, index), problems, lax))
            if problems and enough(problems):
                break
            if not index % LOOK_EVERY:
                cancellation.check()
        return made

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "array", "items": self.inner.schema()}
        if self.least is not None:
            made["minItems"] = self.least
        return made


class Free:
    """Any JSON value, of bounded depth."""

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if not shallow(value):
            problems.append(Problem("recursion_loop", loc, f"Input should not be nested deeper than {MAX_DEPTH} levels", "..."))
        return value

    def schema(self) -> dict[str, Any]:
        return {}


class FreeObject(Free):
    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not dict:
            problems.append(Problem("dict_type", loc, "Input should be a valid dictionary", value))
            return value
        return super().read(value, loc, problems, lax)

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Either:
    kinds: tuple[Kind, ...]

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        # An exact fit wins over a converted one: ["1", "2"] are two texts, not two token ids.
        tried: list[Problem] = []
        for strictness in (False, True) if lax else (False,):
            tried = []
            for kind in self.kinds:
                found: list[Problem] = []
                read = kind.read(value, loc, found, strictness)
                if not found:
                    return read
                tried += found[:4]
        problems.extend(tried)
        return value

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass. Its static method `check(body)`, where it has one, answers a sentence when fields do not go together."""

    made: type
    kinds: dict[str, Kind]
    required: tuple[str, ...]
    abouts: dict[str, str]
    defaults: dict[str, Any]

    def read(self, value: Any, loc: Loc, problems: list[Problem], lax: bool = True) -> Any:
        if type(value) is not dict:
            problems.append(
                Problem("model_attributes_type", loc, "Input should be a valid dictionary or object to extract fields from", value)
            )
            return value
        before = len(problems)
        given = {}
        kinds = self.kinds
        for name in self.required:
            if name not in value:
                problems.append(Problem("missing", (*loc, name), "Field required", value))
        for name, inner in value.items():
            kind = kinds.get(name)
            # Clients send null for what their caller left out: it is the default, unless null means something else here.
            if kind is not None and (inner is not None or name not in self.defaults or isinstance(kind, Null)):
                given[name] = kind.read(inner, (*loc, name), problems)
        check = getattr(self.made, "check", None)
        if check is not None and len(problems) == before and (text := check(given)) is not None:
            problems.append(Problem("value_error", loc, f"Value error, {text}", value))
            return value
        if len(problems) == before:
            return self.made(**given)
        # Told in the order of the fields, whatever the body's: clients look at the first.
        places = {name: place for place, name in enumerate(kinds)}
        problems[before:] = sorted(problems[before:], key=lambda problem: places[str(problem.loc[len(loc)])])
        return value

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            described = kind.schema()
            if name in self.abouts:
                described["description"] = self.abouts[name]
            if name in self.defaults:
                described["default"] = self.defaults[name]
            properties[name] = described
        made: dict[str, Any] = {"type": "object", "title": self.made.__name__, "properties": properties}
        if self.required:
            made["required"] = list(self.required)
        return made


def shallow(value: Any, most: int = MAX_DEPTH) -> bool:
    """Whether a JSON value nests at most `most` levels; walks it level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for item in level
            if type(item) in (list, dict)
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) in (list, dict)
        ]
        if not level:
            return True
    return False


@functools.cache
def record_of(made: type) -> Record:
    hints = typing.get_type_hints(made, include_extras=True)
    fields = dataclasses.fields(made)
    return Record(
        made=made,
        kinds={field.name: kind_of(hints[field.name]) for field in fields},
        required=tuple(
            field.name for field in fields if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ),
        abouts={
            field.name: mark.text for field in fields for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, About)
        },
        defaults={field.name: field.default for field in fields if field.default is not dataclasses.MISSING},
    )


def kind_of(annotation: Any, bounds: Bounds | None = None) -> Kind:
    """Compiles an annotation: str, int, bool, object, Literal, list, dict, unions, dataclasses and Annotated with Bounds."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        inner, *marks = get_args(annotation)
        return kind_of(inner, next((mark for mark in marks if isinstance(mark, Bounds)), bounds))
    if annotation is str:
        return Text()
    if annotation is int:
        return Integer(bounds or Bounds())
    if annotation is bool:
        return Flag()
    if annotation is object:
        return Free()
    if origin is Literal:
        return Choice(get_args(annotation))
    if origin is list:
        (inner,) = get_args(annotation)
        return Many(kind_of(inner), inner if inner in (str, int) else None, bounds.least if bounds else None)
    if origin is dict:
        return FreeObject()
    if origin in (Union, types.UnionType):
        kinds = [inner for inner in get_args(annotation) if inner is not types.NoneType]
        made = kind_of(kinds[0], bounds) if len(kinds) == 1 else Either(tuple(map(kind_of, kinds)))
        return Null(made) if len(kinds) < len(get_args(annotation)) else made
    assert dataclasses.is_dataclass(annotation), f"no kind for the annotation {annotation!r}"
    return record_of(typing.cast(type, annotation))
