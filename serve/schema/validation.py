"""Reads JSON values into the dataclasses of the schemas by pydantic's rules, on which vLLM's clients rely
(docs/http.md 2.1).

Unknown fields are ignored. `"32"` and `1.0` are read as integers, and `"yes"`, `"off"`, 0 and 1 as booleans,
where the field is one. Nothing is read as a string but a string. Four rules are not pydantic's:

- a null for an optional field is its default,
- a list is read up to its first fault,
- free values are of bounded depth,
- between two records other threads get their turn, and reading stops when the request's client has left.

docs/decisions/request-schemas.md says why, and what was measured.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ...runtime import cancellation

MAX_DEPTH = 32
"""Levels of nesting in free-form values (messages, template variables), which are walked by recursion."""

Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]
"""A list of which only the first fault is reported: to collect all faults of 5 MB of nulls takes 40 s."""


def shallow(value: Any, most: int = MAX_DEPTH) -> bool:
    """Returns whether a JSON value nests at most `most` levels.

    Walks the value level by level, so that no depth can exhaust the stack.
    """
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


def restore_integers(value: Any) -> bool:
    """Turns floats in a JSON value back into integers, in place: orjson reads integers below -2^63 and from
    2^64 on as floats.

    Returns whether there was one.
    """
    restored = False
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        for key, inner in holder.items() if type(holder) is dict else enumerate(holder):
            if type(inner) in (list, dict):
                waiting.append(inner)
            elif type(inner) is float and abs(inner) >= 2.0**63 and inner.is_integer():
                # Integers just below -2^63 were rounded to it. It is in range; one less is not.
                holder[key] = int(inner) - (inner == -(2.0**63))
                restored = True
    return restored


def _bounded(value: Any) -> Any:
    if not shallow(value):
        text = "Input should not be nested deeper than {most} levels"
        raise PydanticCustomError("recursion_loop", text, {"most": MAX_DEPTH})
    return value


Free = Annotated[object, AfterValidator(_bounded)]
"""Any JSON value, of bounded depth."""
FreeObject = Annotated[dict[str, object], AfterValidator(_bounded), WithJsonSchema({"type": "object"})]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records that are read from a JSON object."""

    optional: ClassVar[frozenset[str]]
    """Fields that have a default and do not take null."""

    @staticmethod
    def check(fields: dict[str, Any]) -> str | None:
        """Returns a sentence where the fields of an object, each valid by itself, contradict each other."""
        return None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        hints = typing.get_type_hints(cls, include_extras=True)
        cls.optional = frozenset(
            field.name
            for field in dataclasses.fields(cls)
            if field.default is not dataclasses.MISSING and not _knows_null(hints[field.name])
        )
        inner = handler(source)
        # The wrapper takes over the schema's name, so that references to the record lead to the wrapper too.
        return core_schema.no_info_wrap_validator_function(cls._read, inner, ref=str(inner.pop("ref")))

    @classmethod
    def _read(cls, value: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Any:
        cancellation.check()
        if type(value) is not dict:
            # pydantic's words for a model, which vLLM's records are; those for a dataclass differ.
            text = "Input should be a valid dictionary or object to extract fields from"
            raise PydanticCustomError("model_attributes_type", text)
        # Clients send null for a field that their caller left out. It means the default, unless the field
        # itself takes null.
        if None in value.values():
            optional = cls.optional
            value = {
                name: inner for name, inner in value.items() if inner is not None or name not in optional
            }
        record = read(value)
        if cls.check is not Record.check and (text := cls.check(value)) is not None:
            raise ValueError(text)
        return record


def _knows_null(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _knows_null(get_args(annotation)[0])
    return origin in (Union, types.UnionType) and types.NoneType in get_args(annotation)


@functools.cache
def adapter(form: type[Record]) -> TypeAdapter[Any]:
    return TypeAdapter(form)


@functools.cache
def validator(form: type[Record]) -> Callable[[Any], Any]:
    """Reads a JSON value into the record. Raises pydantic.ValidationError."""
    return adapter(form).validator.validate_python


@functools.cache
def names(form: type[Record]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(form))


@functools.cache
def required(form: type[Record]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(form) if field.default is dataclasses.MISSING)


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(form: type[Record], definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the form as OpenAPI's JSON schema. Adds the records inside the form to `definitions`."""
    schema = adapter(form).json_schema(
        ref_template="#/components/schemas/{model}", schema_generator=_Untitled
    )
    definitions |= schema.pop("$defs", {})
    return schema
