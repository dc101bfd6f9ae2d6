"""processing_kwargs of sentence_bert_config.json: lengths, variables of the chat template, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.exporter import processing
from poolrt.runtime import templates
from poolrt.runtime.errors import CheckpointError

WRITTEN = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)


def checkpoint(
    settings: Any, *, kind: str = "classify", default: str | None = None, messages: bool = True, library: str = "CrossEncoder"
) -> Any:
    sentence = SimpleNamespace(
        text={"processing_kwargs": settings},
        prompts={"rank": "Judge the pair.\n"},
        default_prompt=default,
        by_messages=messages,
        kind=library,
    )
    return SimpleNamespace(source="model", kind=kind, sentence=sentence)


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        (None, None), ({}, None), ({"text": {"max_length": 9}}, 9), ({"common": {"max_length": 7}, "text": {"max_length": 9}}, 7),
        ({"chat_template": {"max_length": 5, "enable_thinking": False}}, 5), ({"text": None, "audio": {"max_length": 2}}, None),
        ({"text": {"padding": True, "truncation": "longest_first", "add_special_tokens": True}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_the_shortest_length_of_any_bucket_cuts(settings: Any, length: int | None):
    assert processing.max_length(checkpoint(settings)) == length


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"text": {"truncation": "only_first"}}, "text.truncation .* is 'only_first'"),
        ({"text": {"max_length": 0}}, "text.max_length .* is 0"), ({"common": {"max_length": True}}, "common.max_length .* is True"),
        ({"text": {"add_special_tokens": False}}, "text.add_special_tokens .* is False"),
        ({"common": {"stride": 4}}, "common.stride .* is 4"), ([1], "is no object of objects"), ({"text": 3}, "is no object of objects"),
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_tokens_in_another_way_is_refused(settings: Any, named: str):
    with pytest.raises(CheckpointError, match=named):
        processing.max_length(checkpoint(settings))


def rendered(template: str) -> str:
    messages = [{"role": "query", "content": "mars"}, {"role": "document", "content": "red"}]
    return templates.conversation(template, messages)


def test_a_default_prompt_is_a_system_message_in_front():
    assert rendered(processing.template(checkpoint({}, default="rank"), WRITTEN)) == "<system>Judge the pair.\n<query>mars<document>red"
    assert rendered(processing.template(checkpoint({}), WRITTEN)) == "<query>mars<document>red"


def test_variables_and_another_template_are_followed():
    settings = {"chat_template": {"add_generation_prompt": True, "max_length": 9, "tokenize": True}}
    assert rendered(processing.template(checkpoint(settings), WRITTEN)) == "<query>mars<document>red<reply>"
    settings = {"chat_template": {"chat_template": "{{ words }}{{ deep.a[1] }}", "words": 'a "b"\n', "deep": {"a": [None, 2]}}}
    assert rendered(processing.template(checkpoint(settings), WRITTEN)) == 'a "b"\n2'
    with pytest.raises(CheckpointError, match="continue_final_message"):
        processing.template(checkpoint({"chat_template": {"continue_final_message": True}}), WRITTEN)


def test_texts_by_messages_and_unasked_prompts_of_pairs_are_refused():
    with pytest.raises(CheckpointError, match="sends every text through the chat template"):
        processing.check(checkpoint({}, kind="embed"))
    with pytest.raises(CheckpointError, match=r"puts its default prompt 'Judge the pair.\\n' in front of every query"):
        processing.check(checkpoint({}, default="rank", messages=False))
    processing.check(checkpoint({}, default="rank"))
    processing.check(checkpoint({}, default="rank", messages=False, library="SentenceTransformer"))
    processing.check(SimpleNamespace(source="model", kind="embed", sentence=None))  # pyright: ignore[reportArgumentType]
