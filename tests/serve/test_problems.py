"""Values are taken and refused in pydantic's words, kind by kind, and what is shown of them is short."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest
from poolrt.serve.kinds import MAX_DEPTH, About, Bounds, kind_of, record_of
from poolrt.serve.problems import MAX_LINES, MAX_SHOWN, Problem, dotted, message, short

CASES: list[tuple[Any, Any, list[Any]]] = [
    # ours, pydantic's, values
    (int, int, [5, "5", " 7 ", "+7", "-7", "1_000", 1.0, -3.0, True, "x", "1.5", 1.5, None, [], {}, "", "--1", "1__0", "_1", "0x1"]),
    (bool, bool, [True, False, 0, 1, 1.0, 0.0, 2, 1.5, "true", "FALSE", "on", "Off", "y", "n", "T", "f", "1", "0", "maybe", "", None, []]),
    (str, str, ["", "a", 5, 1.5, True, None, [], {}]),
    (Literal["a", "b"], Literal["a", "b"], ["a", "b", "c", "", None, 5, ["a"]]),
    (Literal["a"], Literal["a"], ["a", "b"]),
    (Literal["a", "b", "c"], Literal["a", "b", "c"], ["d"]),
    (list[int], list[int], [[], [1, "2"], "x", 5, None, {}, [1, "x"], ["y", None]]),
    (list[str], list[str], [[], ["a"], ["a", 5], "a"]),
    (int | None, int | None, [None, 5, "x"]),
    (dict[str, object], dict[str, object], [{}, {"a": 1}, [], "x", None]),
    (Annotated[int, Bounds(least=0)], Annotated[int, pydantic.Field(ge=0)], [0, 1, -1, "-1", "x"]),
    (Annotated[int, Bounds(most=3)], Annotated[int, pydantic.Field(le=3)], [3, 4, "4"]),
    (Annotated[int, Bounds(least=-1, most=3)], Annotated[int, pydantic.Field(ge=-1, le=3)], [-2, -1, 3, 4]),
    (Annotated[list[str], Bounds(least=1)], Annotated[list[str], pydantic.Field(min_length=1)], [["a"], []]),
    (Annotated[list[str], Bounds(least=2)], Annotated[list[str], pydantic.Field(min_length=2)], [["a", "b"], ["a"], []]),
]


@pytest.mark.parametrize(("ours", "theirs", "values"), CASES, ids=lambda value: str(value)[:40])
def test_values_are_taken_and_refused_as_pydantic_does(ours: Any, theirs: Any, values: list[Any]):
    kind, adapter = kind_of(ours), pydantic.TypeAdapter(theirs)
    for value in values:
        problems: list[Problem] = []
        read = kind.read(value, (), problems)
        expected, refusals = answered(adapter, value)
        assert [(problem.kind, problem.loc, problem.text) for problem in problems] == [
            (one["type"], one["loc"], one["msg"]) for one in refusals
        ], value  # fmt: skip
        for problem, one in zip(problems, refusals, strict=True):
            # Lengths that are told in the text are not told again.
            assert problem.context is None or problem.context == one.get("ctx"), value
        if not refusals:
            assert (read, type(read)) == (expected, type(expected)), value


def answered(adapter: pydantic.TypeAdapter[Any], value: Any) -> tuple[Any, Sequence[Any]]:
    try:
        return adapter.validate_python(value), ()
    except pydantic.ValidationError as error:
        return None, error.errors()


def test_a_line_is_a_python_dict_that_says_where_and_what():
    line = Problem("int_type", ("body", "input", 0), "Input should be a valid integer", "x" * 500, {"ge": 0}).line()
    assert ast.literal_eval(line) == {
        "type": "int_type", "loc": "body.input.0", "msg": "Input should be a valid integer", "input": "x" * MAX_SHOWN + "...",
        "ctx": {"ge": 0},
    }  # fmt: skip
    assert "ctx" not in ast.literal_eval(Problem("missing", (), "Field required", None).line())
    assert dotted(("body", 5, "a")) == "body.5.a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "<list of 2 items>"), ({"a": 1}, "<dict of 1 items>"), ("a" * MAX_SHOWN, "a" * MAX_SHOWN), (None, "None"), (1.5, "1.5"),
        ("a" * (MAX_SHOWN + 1), "a" * MAX_SHOWN + "..."), (2**300 - 1, str(2**300 - 1)), (True, "True"), ("\udfff", "\\udfff"),
        (2**301, "<integer of 302 bits>"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_shown_value_says_what_it_is(value: Any, text: str):
    assert short(value) == text


@pytest.mark.parametrize("count", [1, 2, MAX_LINES, MAX_LINES + 1, MAX_LINES + 5])
def test_so_many_problems_are_told_and_the_others_counted(count: int):
    lines = message([Problem("missing", ("body", place), "Field required", None) for place in range(count)]).split("\n")
    assert lines[0].startswith(f"{min(count, MAX_LINES)} validation error{'' if count == 1 else 's'}")
    assert len([line for line in lines if line.startswith("  {")]) == min(count, MAX_LINES)
    assert ("more" in lines[-1]) == (count > MAX_LINES)


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}), (int, {"type": "integer"}), (bool, {"type": "boolean"}), (object, {}),
        (dict[str, object], {"type": "object"}), (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Annotated[int, Bounds(least=0)], {"type": "integer", "minimum": 0}),
        (Annotated[int, Bounds(most=3)], {"type": "integer", "maximum": 3}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (Annotated[list[int], Bounds(least=1)], {"type": "array", "items": {"type": "integer"}, "minItems": 1}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (list[int] | str | None, {"anyOf": [{"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}]},
                                            {"type": "null"}]}),
    ],
    ids=str,
)  # fmt: skip
def test_a_kind_describes_itself_as_json_schema(annotation: Any, schema: dict[str, Any]):
    assert kind_of(annotation).schema() == schema


@pytest.mark.parametrize("annotation", [Annotated[int, Bounds()], Annotated[int, Bounds(most=3)], Annotated[int, Bounds(least=0)]], ids=str)
def test_a_bound_that_is_not_there_bounds_nothing(annotation: Any):
    problems: list[Problem] = []
    for value in (3, 0, -(10**9) if "least=0" not in str(annotation) else 10**9):
        assert kind_of(annotation).read(value, (), problems) == value
    assert problems == []


@dataclass(frozen=True, kw_only=True)
class Body:
    first: int
    second: Annotated[bool, About("whether")] = False
    third: str | None = None


def test_problems_are_told_in_the_order_of_the_fields():
    problems: list[Problem] = []
    record_of(Body).read({"third": 5, "other": 1, "second": "x", "first": "y"}, ("body",), problems)
    assert [problem.loc for problem in problems] == [("body", "first"), ("body", "second"), ("body", "third")]
    problems.clear()
    record_of(Body).read({"third": 5}, ("body",), problems)
    assert [(problem.kind, problem.loc[-1]) for problem in problems] == [("missing", "first"), ("string_type", "third")]
    problems.clear()
    assert record_of(Body).read({"first": "1", "second": None, "third": None}, (), problems) == Body(first=1)
    assert problems == []


def test_a_record_describes_itself():
    assert record_of(Body).schema() == {
        "type": "object", "title": "Body", "required": ["first"],
        "properties": {
            "first": {"type": "integer"}, "second": {"type": "boolean", "description": "whether", "default": False},
            "third": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
    }  # fmt: skip


@pytest.mark.parametrize(("levels", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, True), (MAX_DEPTH + 2, False)])
def test_free_values_nest_only_so_deep(levels: int, fits: bool):
    value: Any = 5
    for _ in range(levels):
        value = [value]
    problems: list[Problem] = []
    kind_of(object).read(value, ("body",), problems)
    assert [(problem.kind, problem.value) for problem in problems] == ([] if fits else [("recursion_loop", "...")])
