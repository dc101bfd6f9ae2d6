"""What a request's fields mean for the text: roles, stored prompts, templates, and ids
that another tokenizer made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.runtime.artifact.manifest import Role, TextPreparation
from poolrt.serve.endpoints import cohere
from poolrt.serve.errors import ApiError
from poolrt.serve.prompts import from_openai, side_of, stored_prompt
from poolrt.serve.schema import vllm


def text(prompts: dict[str, str], *roles: str) -> TextPreparation:
    return TextPreparation(
        max_tokens=8,
        vocab_size=10,
        pad_id=0,
        prompts=prompts,
        roles={name: Role(prefix="x") for name in roles},
    )


def served(prompts: dict[str, str], *roles: str) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(text=text(prompts, *roles)), name="m")


STORED = {"query": "q: ", "passage": "p: "}


@pytest.mark.parametrize(
    ("names", "stored", "found"),
    [
        (("query",), STORED, "query"), (("document",), STORED, "passage"),
        (("search_document", "document"), STORED, "passage"),
        (("document",), {"document": "d", "passage": "p"}, "document"), (("query",), {"passage": "p"}, None),
        (("query",), {}, None),
        (("classification",), STORED, None),
    ],
)  # fmt: skip
def test_a_document_may_be_stored_as_a_passage(
    names: tuple[str, ...], stored: dict[str, str], found: str | None
):
    assert stored_prompt(text(stored), *names) == found


@pytest.mark.parametrize(
    ("input_type", "prompt_name", "roles", "stored", "side"),
    [
        (None, None, ("query",), STORED, {}), (None, "passage", (), STORED, {"prompt_name": "passage"}),
        ("query", None, ("query", "document"), STORED, {"role": "query"}),
        ("passage", None, ("document",), {}, {"role": "document"}),
        ("search_query", None, ("query",), {}, {"role": "query"}),
        ("search_document", None, ("document",), {}, {"role": "document"}),
        ("query", "own", ("query",), STORED, {"prompt_name": "own", "role": "query"}),
        ("query", None, (), STORED, {"prompt_name": "query"}),
        ("document", None, ("query",), STORED, {"prompt_name": "passage"}),
        ("query", "own", (), STORED, {"prompt_name": "own"}), ("query", None, (), {}, {}),
        ("search_query", None, (), {"search_query": "s", "query": "q"}, {"prompt_name": "search_query"}),
    ],
)  # fmt: skip
def test_a_side_is_a_role_or_else_a_stored_prompt(
    input_type: Any, prompt_name: Any, roles: tuple[str, ...], stored: Any, side: Any
):
    asked = SimpleNamespace(input_type=input_type, prompt_name=prompt_name)
    assert side_of(asked, served(stored, *roles)) == side


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"x-stainless-lang": "python"}, True), ({"user-agent": "OpenAI/Python 1.0"}, True),
        ({"user-agent": "AsyncOpenAI/Python"}, True),
        ({"user-agent": "curl OpenAI/"}, False), ({}, False),
    ],
)  # fmt: skip
def test_openais_libraries_are_known_by_their_headers(headers: dict[str, str], known: bool):
    assert from_openai(headers) == known


@pytest.mark.parametrize(
    ("input_type", "stored", "lenient", "name"),
    [
        (None, STORED, False, None), (None, STORED, True, None), ("query", STORED, False, "query"),
        ("passage", STORED, False, "passage"),
        ("search_query", STORED, True, "query"), ("search_document", STORED, True, "passage"),
        ("clustering", STORED, True, None),
        ("classification", {"classification": "c"}, True, "classification"),
        ("search_query", {}, False, None),
        ("search_document", {}, True, None), ("clustering", {}, False, None),
    ],
)  # fmt: skip
def test_coheres_input_types_name_a_stored_prompt(
    input_type: Any, stored: dict[str, str], lenient: bool, name: str | None
):
    asked: Any = SimpleNamespace(input_type=input_type)
    assert cohere.prompt_of(asked, served(stored), lenient=lenient) == name


@pytest.mark.parametrize(
    ("input_type", "stored", "lenient", "told"),
    [
        ("search_query", STORED, False,
        "Unsupported input_type 'search_query'. Supported values: passage, query"),
        ("other", STORED, True, "Unsupported input_type 'other'. Supported values: passage, query"),
        ("other", {}, True, "does not define any input_type task instructions"),
        ("x" * 500, {}, False, f"'{'x' * 100}'"),
    ],
)  # fmt: skip
def test_other_input_types_are_refused(input_type: str, stored: dict[str, str], lenient: bool, told: str):
    asked: Any = SimpleNamespace(input_type=input_type)
    with pytest.raises(ApiError) as refused:
        cohere.prompt_of(asked, served(stored), lenient=lenient)
    assert refused.value.status == 400
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("truncate", "most", "cut"),
    [
        ("NONE", 5, (None, None)), ("NONE", None, (None, None)), ("END", None, (-1, None)),
        ("END", 5, (5, None)),
        ("START", None, (-1, "left")), ("START", 5, (5, "left")),
    ],
)  # fmt: skip
def test_coheres_truncation_names_what_is_lost(truncate: str, most: int | None, cut: tuple[Any, Any]):
    assert cohere.truncation_of(SimpleNamespace(truncate=truncate, max_tokens=most)) == cut  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("truncate", "most", "refused"),
    [("NONE", 5, False), ("NONE", 4, True), ("END", 4, False), ("NONE", None, False)],
)
def test_a_text_beyond_max_tokens_is_refused_where_nothing_may_be_cut(
    truncate: str, most: int | None, refused: bool
):
    asked: Any = SimpleNamespace(truncate=truncate, max_tokens=most)
    requests = [SimpleNamespace(prompt_tokens=count) for count in (2, 5)]
    if not refused:
        cohere.check_lengths(asked, requests)
        return
    with pytest.raises(ApiError, match="Input of 5 tokens exceeds max_tokens=4 with truncate=NONE"):
        cohere.check_lengths(asked, requests)


@pytest.mark.parametrize(
    ("prefix", "templated", "chat"),
    [("", True, None), ("p: ", False, None), ("p: ", True, [["system", "user"], ["system", "user"]])],
)
def test_coheres_texts_are_a_conversation_where_prompt_and_template_are(
    prefix: str, templated: bool, chat: Any
):
    asked = vllm.CohereEmbed(texts=["a", "b"])
    conversations = cohere.conversations_of(asked, prefix, templated)
    assert (
        None if conversations is None else [[message.role for message in each] for each in conversations]
    ) == chat
    part = vllm.CoherePart(type="text", text="a")
    mixed = vllm.CohereEmbed(inputs=[vllm.CohereInput(content=[part])])
    ((message,),) = cohere.conversations_of(mixed, "", False) or [[]]
    assert (message.role, message.content) == ("user", [{"type": "text", "text": "a"}])


def test_coheres_types_have_one_order():
    import numpy as np

    vectors = [np.array([0.5, -0.25] * 4, np.float32)]
    made = cohere.embeddings(vectors, ["base64", "ubinary", "int8", "float"])
    assert list(made) == ["float", "int8", "ubinary", "base64"]
    assert made["ubinary"][0].tolist() == [0b10101010]
    with pytest.raises(
        ApiError, match=r"multiple of 8, this one is 3 " r"\(parameter=embedding_types\)"
    ) as refused:
        cohere.embeddings([vectors[0][:3]], ["binary"])
    assert (refused.value.status, refused.value.param) == (400, "embedding_types")
