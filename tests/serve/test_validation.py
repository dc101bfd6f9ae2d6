"""Bodies are read as leniently as FastAPI and pydantic read vLLM's, and refused in the same words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from poolrt.runtime import cancellation
from poolrt.serve.errors import ApiError
from poolrt.serve.schema import vllm
from poolrt.serve.schema.validation import MAX_DEPTH, FreeObject, Many, restore_integers, shallow
from poolrt.serve.schema.validation_errors import MAX_LINES, Problem, message, problems_of, short
from pydantic import Field, TypeAdapter, ValidationError


def read(annotation: Any, value: Any) -> tuple[Any, list[str]]:
    try:
        return TypeAdapter(annotation).validate_python(value), []
    except ValidationError as error:
        return value, [problem.kind for problem in problems_of(error)]


@pytest.mark.parametrize(
    ("annotation", "value", "made"),
    [
        (int, 5, 5), (int, "32", 32), (int, " -7 ", -7), (int, 1.0, 1), (int, True, 1),
        (int | None, None, None),
        (bool, "yes", True), (bool, "OFF", False), (bool, 0, False), (bool, 1.0, True),
        (bool | None, None, None),
        (Many[int], [1, True, "3", 4.0], [1, 1, 3, 4]), (Many[int] | Many[str], ["1", "2"], ["1", "2"]),
        (str | list[str], "a", "a"),
        (vllm.TextInput, [[1, 2], [3]], [[1, 2], [3]]), (vllm.TextInput, [1, True], [1, 1]),
        (Literal["a", "b"], "a", "a"),
    ],
)  # fmt: skip
def test_values_are_converted_as_pydantic_does(annotation, value, made):
    assert read(annotation, value) == (made, [])


@pytest.mark.parametrize(
    ("annotation", "value", "kind"),
    [
        (int, "1.5", "int_parsing"), (int, 1.5, "int_from_float"), (int, None, "int_type"),
        (int, "--1", "int_parsing"),
        (int, "١", "int_parsing"), (int, "9" * 5000, "int_parsing_size"), (int, [], "int_type"),
        (int, float("inf"), "finite_number"),
        (bool, 2, "bool_parsing"), (bool, "maybe", "bool_parsing"), (bool, None, "bool_type"),
        (str, 5, "string_type"),
        (Literal["a"], "b", "literal_error"), (Literal["a"], ["a"], "literal_error"),
        (list[str], "a", "list_type"),
        (FreeObject, [], "dict_type"), (Annotated[int, Field(ge=0)], -1, "greater_than_equal"),
        (Annotated[int, Field(le=3)], "4", "less_than_equal"),
        (Annotated[Many[str], Field(min_length=1)], [], "too_short"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_by_name(annotation, value, kind):
    assert read(annotation, value)[1] == [kind]


def test_fields_nobody_knows_are_ignored():
    assert vllm.EMBEDDINGS.read({"input": "a", "colour": "red"}).input == "a"


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({"input": "a"}, vllm.EmbeddingText),
        ({"input": [1, 2]}, vllm.EmbeddingText),
        ({"input": [[1], [2]]}, vllm.EmbeddingText),
        ({"messages": [{"role": "user", "content": "a"}]}, vllm.EmbeddingChat),
        ({"messages": [[{"role": "user", "content": "a"}]]}, vllm.EmbeddingChats),
        ({"input": [{"role": "user", "content": "a"}]}, vllm.EmbeddingInputChat),
        ({"input": [[{"role": "user", "content": "a"}]]}, vllm.EmbeddingInputChats),
        ({"input": "a", "messages": [{"role": "user", "content": "b"}]}, vllm.EmbeddingChat),
    ],
)
def test_the_form_of_an_embedding_request_is_recognised(body, form):
    assert type(vllm.EMBEDDINGS.read(body)) is form


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({"queries": "a", "documents": "b"}, vllm.ScoreQueriesDocuments),
        ({"queries": "a", "items": ["b"]}, vllm.ScoreQueriesItems),
        ({"data_1": "a", "data_2": "b"}, vllm.ScoreData),
        ({"text_1": ["a"], "text_2": ["b"]}, vllm.ScoreTexts),
        ({"text_1": "a", "text_2": "b", "queries": "c", "documents": "d"}, vllm.ScoreQueriesDocuments),
        ({"queries": {"content": [{"type": "text", "text": "a"}]}, "documents": "b"},
        vllm.ScoreQueriesDocuments),
    ],
)  # fmt: skip
def test_every_spelling_of_a_score_is_read(body, form):
    assert type(vllm.SCORE.read(body)) is form


@pytest.mark.parametrize(
    "body",
    [
        {"data_1": "a", "text_2": "b"},
        {"queries": "a"},
        {"queries": {"text": "a"}, "documents": "b"},
        {"queries": {"content": "a"}, "documents": "b"},
    ],
)
def test_half_a_score_is_refused(body):
    with pytest.raises(ApiError, match=r"^[^\n]+\n\d+ validation errors?:\n"):
        vllm.SCORE.read(body)


@pytest.mark.parametrize("body", [[], "text", 5, None, True])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(ApiError) as caught:
        vllm.RERANK.read(body)
    assert caught.value.param == "body"


def test_a_body_of_many_faults_costs_few_lines():
    with pytest.raises(ApiError) as caught:
        vllm.EMBEDDINGS.read({"input": [None] * 100_000})
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize(
    "value", ["x" * 10**7, 10**5000, ["y"] * 10**6, {"z": 1}, "\ud800", 1e308, None], ids=range(7)
)
def test_a_shown_value_is_short(value):
    shown = short(value)
    assert len(shown) < 200
    shown.encode()


def test_at_most_so_many_problems_are_told():
    problems = [Problem("missing", ("body", index), "Field required", None) for index in range(100)]
    assert message(problems).count("\n") == MAX_LINES + 1


def test_depth_is_measured_without_recursion():
    value: Any = []
    for _ in range(MAX_DEPTH):
        value = [value]
    assert shallow(value)
    assert not shallow([value])
    for _ in range(100_000):
        value = [value]
    assert not shallow(value)


@pytest.mark.parametrize(
    ("value", "integer"),
    # what orjson makes of -2^63 - 1, of 2^64 and of 2^70
    [(-(2.0**63), -(2**63) - 1), (2.0**64, 2**64), (2.0**70, 2**70)],
)
def test_an_integer_that_orjson_reads_as_a_float_is_one(value: float, integer: int):
    assert vllm.EMBEDDINGS.read({"input": [value]}).input == [integer]
    assert vllm.EMBEDDINGS.read({"input": [[1], [2, value]]}).input == [[1], [2, integer]]
    assert vllm.EMBEDDINGS.read({"input": "a", "dimensions": value}).dimensions == integer
    with pytest.raises(ApiError, match="greater_than_equal" if integer < 0 else "less_than_equal"):
        vllm.EMBEDDINGS.read({"input": "a", "priority": value})


def test_other_floats_stay():
    body = {"a": [1.5, 2.0, float("inf"), {"b": -(2.0**62)}], "c": 2.0**63}
    assert restore_integers(body)
    assert [*map(type, body["a"]), type(body["c"])] == [float, float, float, dict, int]
    assert not restore_integers(body)


@pytest.mark.parametrize(
    "item", [{"text": "a"}, {"content": [{"type": "text", "text": "a"}]}], ids=["texts", "contents"]
)
def test_reading_looks_between_two_records_whether_anybody_waits(item: dict[str, Any]):
    """There other threads get their turn, too."""
    looks = iter([False] * 100 + [True])
    with pytest.raises(Exception, match=r"^$") as caught, cancellation.watched(lambda: next(looks)):
        vllm.RERANK.read({"query": "a", "documents": [item] * 1000})
    assert type(caught.value).__name__ == "CancelledError"


@pytest.mark.parametrize(
    ("documents", "places"),
    [
        (
            [{"txt": 5}],
            {"body.documents", "body.documents.0", "body.documents.0.content", "body.documents.0.text"},
        ),
        ({"text": 5}, {"body.documents", "body.documents.content", "body.documents.text"}),
        (
            ["a", {"text": 5}],
            {"body.documents", "body.documents.1", "body.documents.1.content", "body.documents.1.text"},
        ),
        (
            [{"str": 1}],
            {"body.documents", "body.documents.0", "body.documents.0.content", "body.documents.0.text"},
        ),
    ],
    ids=["list", "object", "second", "a key with the name of a type"],
)
def test_a_place_leads_through_the_body(documents: Any, places: set[str]):
    """And names no member of a union, as pydantic's own places do."""
    with pytest.raises(ApiError) as caught:
        vllm.RERANK.read({"query": "a", "documents": documents})
    told = {line.split("'loc': '")[1].split("'")[0] for line in str(caught.value).splitlines()[2:]}
    assert told == places
