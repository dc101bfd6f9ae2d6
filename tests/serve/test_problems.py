"""Problems are told in pydantic's words, and what is shown of a value is short."""

from __future__ import annotations

import ast
import dataclasses
from typing import Annotated, Any, Literal

import pydantic
import pytest
from poolrt.serve.schema.body import refusal
from poolrt.serve.schema.validation import MAX_DEPTH, Free, FreeObject, Many, Record, json_schema, validator
from poolrt.serve.schema.validation_errors import (
    MAX_LINES,
    MAX_SHOWN,
    Problem,
    dotted,
    message,
    problems_of,
    short,
)
from pydantic import Field

CASES: list[tuple[Any, list[Any]]] = [
    (
        int,
        [
            5,
            "5",
            " 7 ",
            "+7",
            "-7",
            "1_000",
            1.0,
            -3.0,
            True,
            "x",
            "1.5",
            1.5,
            None,
            [],
            {},
            "",
            "--1",
            "1__0",
            "_1",
            "0x1",
        ],
    ),
    (
        bool,
        [
            True,
            False,
            0,
            1,
            1.0,
            0.0,
            2,
            1.5,
            "true",
            "FALSE",
            "on",
            "Off",
            "y",
            "n",
            "T",
            "f",
            "1",
            "0",
            "maybe",
            "",
            None,
            [],
        ],
    ),
    (str, ["", "a", 5, 1.5, True, None, [], {}]),
    (Literal["a", "b"], ["a", "b", "c", "", None, 5, ["a"]]),
    (Literal["a"], ["a", "b"]),
    (Literal["a", "b", "c"], ["d"]),
    (list[int], [[], [1, "2"], "x", 5, None, {}, [1, "x"], ["y", None]]),
    (list[str], [[], ["a"], ["a", 5], "a"]),
    (int | None, [None, 5, "x"]),
    (dict[str, object], [{}, {"a": 1}, [], "x", None]),
    (Annotated[int, Field(ge=0)], [0, 1, -1, "-1", "x"]),
    (Annotated[int, Field(le=3)], [3, 4, "4"]),
    (Annotated[int, Field(ge=-1, le=3)], [-2, -1, 3, 4]),
    (Annotated[list[str], Field(min_length=1)], [["a"], []]),
    (Annotated[list[str], Field(min_length=2)], [["a", "b"], ["a"], []]),
]


@pytest.mark.parametrize(("annotation", "values"), CASES, ids=lambda value: str(value)[:40])
def test_a_problem_is_pydantics(annotation: Any, values: list[Any]):
    adapter = pydantic.TypeAdapter(annotation)
    for value in values:
        try:
            adapter.validate_python(value)
        except pydantic.ValidationError as error:
            for problem, detail in zip(problems_of(error), error.errors(), strict=True):
                assert (problem.kind, problem.loc, problem.text) == (
                    detail["type"],
                    ("body", *detail["loc"]),
                    detail["msg"],
                ), value
                # Lengths that are told in the text are not told again.
                assert problem.context is None or problem.context == detail.get("ctx"), value


def test_a_line_is_a_python_dict_that_says_where_and_what():
    line = Problem(
        "int_type", ("body", "input", 0), "Input should be a valid integer", "x" * 500, {"ge": 0}
    ).line()
    assert ast.literal_eval(line) == {
        "type": "int_type", "loc": "body.input.0", "msg": "Input should be a valid integer",
        "input": "x" * MAX_SHOWN + "...",
        "ctx": {"ge": 0},
    }  # fmt: skip
    assert "ctx" not in ast.literal_eval(Problem("missing", (), "Field required", None).line())
    assert dotted(("body", 5, "a")) == "body.5.a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "<list of 2 items>"), ({"a": 1}, "<dict of 1 items>"), ("a" * MAX_SHOWN, "a" * MAX_SHOWN),
        (None, "None"), (1.5, "1.5"),
        ("a" * (MAX_SHOWN + 1), "a" * MAX_SHOWN + "..."), (2**300 - 1, str(2**300 - 1)), (True, "True"),
        ("\udfff", "\\udfff"),
        (2**301, "<integer of 302 bits>"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_shown_value_says_what_it_is(value: Any, text: str):
    assert short(value) == text


@pytest.mark.parametrize("count", [1, 2, MAX_LINES, MAX_LINES + 1, MAX_LINES + 5])
def test_so_many_problems_are_told_and_the_others_counted(count: int):
    lines = message(
        [Problem("missing", ("body", place), "Field required", None) for place in range(count)]
    ).split("\n")
    assert lines[0].startswith(f"{min(count, MAX_LINES)} validation error{'' if count == 1 else 's'}")
    assert len([line for line in lines if line.startswith("  {")]) == min(count, MAX_LINES)
    assert ("more" in lines[-1]) == (count > MAX_LINES)


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}), (int, {"type": "integer"}), (bool, {"type": "boolean"}), (Free, {}),
        (FreeObject, {"type": "object"}), (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Annotated[int, Field(ge=0)], {"type": "integer", "minimum": 0}),
        (Annotated[int, Field(le=3)], {"type": "integer", "maximum": 3}),
        (Many[str], {"type": "array", "items": {"type": "string"}}),
        (Annotated[Many[int], Field(min_length=1)],
        {"type": "array", "items": {"type": "integer"}, "minItems": 1}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Many[int] | str | None,
        {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}, {"type": "null"}]}),
    ],
)  # fmt: skip
def test_a_field_describes_itself_as_json_schema(annotation: Any, schema: dict[str, Any]):
    form = dataclasses.make_dataclass(
        "Form", [("value", annotation)], bases=(Record,), frozen=True, kw_only=True
    )
    assert json_schema(form, {})["properties"] == {"value": schema}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body(Record):
    first: int
    second: Annotated[bool, Field(description="whether")] = False
    third: str | None = None


def test_problems_are_told_in_the_order_of_the_fields():
    problems = problems_of(refusal({"third": 5, "other": 1, "second": "x", "first": "y"}, Body))
    assert [problem.loc for problem in problems] == [("body", "first"), ("body", "second"), ("body", "third")]
    problems = problems_of(refusal({"third": 5}, Body))
    assert [(problem.kind, problem.loc[-1]) for problem in problems] == [
        ("missing", "first"),
        ("string_type", "third"),
    ]
    assert problems_of(refusal({"first": "1", "second": None, "third": None}, Body)) == []
    assert validator(Body)({"first": "1", "second": None, "third": None}) == Body(first=1)


def test_a_record_describes_itself():
    assert json_schema(Body, {}) == {
        "type": "object", "title": "Body", "required": ["first"],
        "properties": {
            "first": {"type": "integer"}, "second": {"type": "boolean", "description": "whether",
            "default": False},
            "third": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
    }  # fmt: skip


def test_records_inside_a_record_are_defined_beside_it():
    outer = dataclasses.make_dataclass(
        "Outer", [("inner", Many[Body])], bases=(Record,), frozen=True, kw_only=True
    )
    definitions: dict[str, Any] = {}
    schema = json_schema(outer, definitions)
    assert schema["properties"] == {
        "inner": {"type": "array", "items": {"$ref": "#/components/schemas/Body"}}
    }
    assert definitions == {"Body": json_schema(Body, {})}


@pytest.mark.parametrize(
    ("levels", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, True), (MAX_DEPTH + 2, False)]
)
def test_free_values_nest_only_so_deep(levels: int, fits: bool):
    value: Any = 5
    for _ in range(levels):
        value = [value]
    form = dataclasses.make_dataclass("Form", [("value", Free)], bases=(Record,), frozen=True, kw_only=True)
    problems = problems_of(refusal({"value": value}, form))
    assert [(problem.kind, problem.value) for problem in problems] == (
        [] if fits else [("recursion_loop", "...")]
    )
