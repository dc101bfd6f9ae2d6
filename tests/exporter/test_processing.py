"""processing_kwargs and default prompts of Sentence Transformers' files: what changes texts is
followed or refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from poolrt.exporter.heads.texts import processing
from poolrt.runtime.errors import CheckpointError


def read(buckets: Any = None, *, kind: str = "embed", model: str = "SentenceTransformer", **more: Any) -> Any:
    text = {} if buckets is None else {"processing_kwargs": buckets}
    family = SimpleNamespace(vision=more.pop("vision", None), late_interaction=False, roles=None)
    sentence = {"by_messages": False, "kind": model, "prompts": {}, "default_prompt": None} | more
    return SimpleNamespace(
        source="folder",
        kind=kind,
        family=family,
        inner=Path(more.pop("inner", "nowhere")),
        sentence=SimpleNamespace(text=text, **sentence),
    )


@pytest.mark.parametrize(
    ("buckets", "length"),
    [
        (None, None), ({}, None), ({"text": None}, None), ({"text": {"max_length": 7}}, 7),
        ({"common": {"max_length": 1}}, 1),
        ({"text": {"max_length": 9}, "common": {"max_length": 8}, "chat_template": {"max_length": 10}}, 8),
        ({"text": {"padding": "longest", "truncation": "longest_first", "add_special_tokens": True,
        "logits_to_keep": 1}}, None),
        ({"common": {"truncation": True, "verbose": 1},
        "chat_template": {"truncation": False, "whatever": 2}}, None),
        ({"audio": {"sampling_rate": 5, "max_length": 2}}, None),
    ],
)  # fmt: skip
def test_lengths_of_all_buckets(buckets: Any, length: int | None):
    assert processing.max_length(read(buckets)) == length
    assert processing.max_length(SimpleNamespace(sentence=None)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("buckets", "told"),
    [
        ({"text": {"truncation": "only_second"}}, "processing_kwargs.text.truncation of"),
        ({"common": {"max_length": 0}},
        "processing_kwargs.common.max_length of sentence_bert_config.json is 0"),
        ({"text": {"max_length": True}}, "max_length of sentence_bert_config.json is True"),
        ({"text": {"max_length": "9"}}, "is '9'"),
        ({"text": {"add_special_tokens": False}}, "add_special_tokens"),
        ({"text": {"stride": 3}}, "processing_kwargs.text.stride of sentence_bert_config.json is 3"),
        ({"common": {"logits_to_keep": 1}}, "common.logits_to_keep"),
        ({"text": 5}, "is no object of objects"), ([], "is no object of objects"),
    ],
)  # fmt: skip
def test_what_would_change_tokens_is_refused(buckets: Any, told: str):
    with pytest.raises(CheckpointError, match=told):
        processing.max_length(read(buckets))


def test_a_template_has_the_library_s_variables_and_system_prompt():
    written = (
        "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{{ add_generation_prompt }}{{ "
        "more }}{{ tools is defined }}"
    )
    messages = [{"role": "user", "content": "a"}]
    settings = {
        "add_generation_prompt": True,
        "more": [None, 1.5, {"x": "y"}],
        "max_length": 5,
        "tokenize": False,
        "padding": True,
    }
    sentence = read({"chat_template": settings}, prompts={"q": 'say "this"\n'}, default_prompt="q")
    made = processing.template(sentence, written)
    shown = jinja2.Environment(trim_blocks=True).from_string(made).render(messages=messages)
    assert shown == "system=say \"this\"\n;user=a;True[None, 1.5, {'x': 'y'}]False"
    assert all(name not in made for name in ("max_length", "tokenize", "padding"))
    assert processing.template(read(prompts={"q": "p"}), written) == written
    own = processing.template(read({"chat_template": {"chat_template": "own", "off": False}}), written)
    assert jinja2.Environment(trim_blocks=True).from_string(own + "{{ off }}").render() == "ownFalse"
    with pytest.raises(CheckpointError, match=r"chat_template\.continue_final_message"):
        processing.template(read({"chat_template": {"continue_final_message": True}}), written)


def test_a_template_may_be_named(tmp_path: Path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "own.jinja").write_text("from a file", encoding="utf-8")
    settings = {"chat_template": {"chat_template": "own"}}
    assert processing.template(read(settings, inner=str(tmp_path)), "the tokenizer's") == "from a file"
    assert processing.template(read(settings), "the tokenizer's") == "own"


def test_prompts_and_messages_that_poolrt_does_not_send_are_refused():
    prompt = {"prompts": {"q": "p: "}, "default_prompt": "q"}
    with pytest.raises(CheckpointError, match="default prompt 'p: ' in front of every query"):
        processing.check(read(kind="classify", model="CrossEncoder", **prompt))
    for kind in ("embed", "splade", "colbert", "bge-m3", "modular"):
        with pytest.raises(CheckpointError, match="modality 'message'"):
            processing.check(read(kind=kind, by_messages=True))
    processing.check(read(kind="embed", by_messages=True, vision="pictures"))
    processing.check(read(kind="classify", model="CrossEncoder", by_messages=True, **prompt))
    processing.check(read(kind="classify", model="CrossEncoder", **{**prompt, "default_prompt": "other"}))
    processing.check(read(**prompt))
    processing.check(SimpleNamespace(sentence=None))  # type: ignore[arg-type]
