"""Templates render as transformers renders them, and the shipped ones give the layouts of the
models' cards to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs import templates
from transformers import PreTrainedTokenizerFast

from tests.runtime.vocabularies import ALL, preparation

SHIPPED = Path(templates.__file__).parents[2] / "recipes" / "templates"
PAIR = [{"role": "query", "content": "what is π?"}, {"role": "document", "content": "a <image>number\n "}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    "Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QWEN = (
    JUDGE + "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: what is π?\n<Document>: a <image>number\n "
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
)
MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
    "assistant.<|im_end|>\n<|im_start|>user\n"
    "query: what is π?\ndocument: a <image>number\n \nYou are a search relevance expert who evaluates "
    "how well documents match search "
    "queries. For each query-document pair, carefully analyze the semantic relationship between them, "
    "then provide your binary relevance "
    "judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant"
)
LAYOUTS = {
    "nemotron-rerank": "question:what is π? \n \n passage:a <image>number\n ",
    "nemotron-vl-rerank": "<image> question:what is π? \n \n passage:a number\n ",
    "nemotron-vl-rerank-bare": "<image> what is π? \n a number\n ",
    "jina_reranker_m0": "**Document**:\na <image>number\n \n**Query**:\nwhat is π?",
    "bge-reranker-v2-gemma": "A: what is π?\nB: a <image>number\n \nGiven a query A and a passage B, "
    "determine whether "
    "the passage "
    "contains an answer to the query by providing a prediction of either 'Yes' or 'No'.",
    "mxbai_rerank_v2": MXBAI,
    "mxbai_rerank_v2_card": MXBAI + "\n",
    "qwen3_reranker": QWEN,
    "qwen3_reranker_card": QWEN + "\n",
    "qwen3_vl_reranker": JUDGE + "<Instruct>: Given a search query, retrieve relevant candidates that "
    "answer the query."
    "<Query>:what is π?\n<Document>:a <image>number\n <|im_end|>\n<|im_start|>assistant\n",
}


def shipped(name: str) -> str:
    return templates.read(SHIPPED / f"{name}.jinja")


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_score_templates_have_their_cards_layout(name):
    assert templates.conversation(shipped(name), PAIR, special_tokens=SPECIAL) == LAYOUTS[name]


def test_every_shipped_template_is_tried():
    # jina_reranker_v3 takes a list of documents, not messages: tests/exporter/test_reshaped.py
    # has it beside its model.
    tried = {
        *LAYOUTS,
        "nemotron_embed_vl",
        "vlm2vec_qwen2vl",
        "vlm2vec_phi3v",
        "dse_qwen2_vl",
        "jina_reranker_v3",
        # Of roles, with pictures: tests/exporter/test_qwen3_vl.py, test_qwen3_vl_recipes.py and
        # test_qwen3_5.py.
        "colqwen3_5_document",
        "colqwen3_5_query",
        "colqwen3_ops_document",
        "colqwen3_ops_query",
        "colqwen3_tomoro",
        # tests/exporter/test_llava_next.py and test_phi3_v.py.
        "e5_v",
        "vlm2vec_query",
        "vlm2vec_document",
        # tests/exporter/test_qwen2_vl_recipes.py.
        "dse_qwen2_vl_query",
        "dse_qwen2_vl_document",
        "gme_qwen2_vl",
        "jina_v4_query",
        "jina_v4_document",
        "vlm2vec_qwen2vl_query",
        "vlm2vec_qwen2vl_document",
        "nemotron_colembed_document",
        "nemotron_colembed_query",
        "qwen3_vl_embedding",
        "qwen3_vl_reranker_card",
    }
    assert {path.stem for path in SHIPPED.glob("*.jinja")} == tried


@pytest.mark.parametrize("name", ["qwen3_reranker", "qwen3_reranker_card", "qwen3_vl_reranker"])
def test_the_instruction_is_the_first_one_told(name):
    system = [{"role": "system", "content": "from system"}, *PAIR]

    def told(messages: list[dict[str, str]], **variables: Any) -> str:
        text = templates.conversation(shipped(name), messages, variables=variables)
        return text.split("<Instruct>: ")[1].split("<Query>")[0].strip()

    assert told(system, instruction="one", instruct="two") == "one"
    assert told(system, instruction="", instruct="two") == "two"
    assert told(system) == "from system"
    assert told(PAIR, instruction="", instruct="").startswith("Given a")


def test_an_instruction_of_mxbais_card_comes_first():
    text = templates.conversation(
        shipped("mxbai_rerank_v2_card"), PAIR, variables={"instruction": "be strict"}
    )
    assert "user\ninstruction: be strict\nquery: what" in text


IMAGE: dict[str, Any] = {"type": "image"}
MIXED = [
    {
        "role": "query",
        "content": [{"type": "text", "text": "one"}, IMAGE, {"type": "text", "text": "two"}, IMAGE],
    }
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nemotron_embed_vl", "<s>query: <image> <image> onetwo"),
        ("vlm2vec_qwen2vl", "one <|image_pad|> two <|image_pad|>"),
        ("vlm2vec_phi3v", "one <|image_1|> two <|image_2|>"),
        (
            "dse_qwen2_vl",
            "<s><|im_start|>system\nYou are a helpful "
            "assistant.<|im_end|>\n<|im_start|>query\none<|vision_start|><|image_pad|><|vision_end|>two<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|endoftext|>",
        ),
    ],
)
def test_embedding_templates_have_their_layout(name, text):
    assert templates.conversation(shipped(name), MIXED, special_tokens=SPECIAL) == text
    assert templates.content_format(shipped(name)) == "openai"


@pytest.mark.parametrize("name", ["nemotron_embed_vl", "vlm2vec_qwen2vl", "vlm2vec_phi3v"])
def test_embedding_templates_take_one_message(name):
    with pytest.raises(InputError, match="this model embeds one message at a time, found 2"):
        templates.conversation(shipped(name), [*MIXED, *MIXED])


def test_prefixes_follow_the_role():
    for role, prefix in (("document", "passage: "), ("user", "")):
        messages = [{"role": role, "content": [{"type": "text", "text": "t"}]}]
        assert templates.conversation(shipped("nemotron_embed_vl"), messages) == prefix + "t"


# Rendering like transformers

CHATML = (
    "{%- for message in messages %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
ODDITIES = (
    "{{ bos_token }}\n"
    "  {% for message in messages %}  \n"
    "    {% if message.role == 'system' %}{% continue %}{% endif %}\n"
    "    {{ message | tojson }}|{{ message | tojson(indent=2) }}\n"
    "    {% if loop.index > 2 %}{% break %}{% endif %}\n"
    "  {% endfor %}\n"
    "{% generation %}{% set x = 3 %}said{{ x }}{% endgeneration %}{{ x }}\n"
    "{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ dict(a=1)['a'] }}\n"
    "{{ tools is none }}{{ missing is defined }}{{ colour }}\n\n"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHAT = [
    {"role": "system", "content": " be brief "},
    {"role": "user", "content": '  <b>héllo</b> & "you" \n'},
    {"role": "assistant", "content": "well, "},
]


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=ALL["qwen"](), **SPECIAL)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "template",
    [CHATML, ODDITIES, PLAIN, *(shipped(name) for name in sorted(LAYOUTS))],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize("generation", [False, True])
def test_rendering_is_transformers(reference, template, generation):
    messages = PAIR if "selectattr" in template else CHAT
    theirs = reference.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=generation, colour="blue"
    )
    ours = templates.conversation(
        template,
        messages,
        special_tokens=SPECIAL,
        add_generation_prompt=generation,
        variables={"colour": "blue", "unused": object()},
    )
    assert ours == theirs


@pytest.mark.parametrize("template", [CHATML, PLAIN], ids=["trimming", "plain"])
@pytest.mark.parametrize(
    "last", ["well, ", "well", [{"type": "text", "text": "well, "}]], ids=["space", "plain", "part"]
)
def test_continuing_the_final_message_is_transformers(reference, template, last):
    if isinstance(last, list):
        template = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}|{% endfor %}"
    messages = [
        {"role": "user", "content": "hi" if isinstance(last, str) else [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": last},
    ]
    theirs = reference.apply_chat_template(
        messages, chat_template=template, tokenize=False, continue_final_message=True
    )
    assert (
        templates.conversation(template, messages, special_tokens=SPECIAL, continue_final_message=True)
        == theirs
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only system turns') }}", "chat template: only system turns"),
        ("{% if %}", "chat template: "),
        ("{{ messages[5].content }}", "chat template: "),
        ("{{ messages.append(1) }}", "chat template: "),
        ("{{ ''.__class__.__mro__ }}", "chat template: "),
        ("{{ namespace(__class__=1) }}", "underscore"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ messages[0].content | unknown }}", "chat template: "),
    ],
)
def test_what_a_template_refuses_is_the_callers_error(template, words):
    with pytest.raises(InputError, match=words) as caught:
        templates.conversation(template, CHAT)
    assert caught.value.field == "chat_template"
    assert "\n" not in str(caught.value)


def test_both_flags_cannot_be_set():
    with pytest.raises(InputError, match="Cannot set both"):
        templates.conversation(PLAIN, CHAT, add_generation_prompt=True, continue_final_message=True)


def test_a_dropped_final_message_cannot_be_continued():
    with pytest.raises(InputError, match="drops the final message"):
        templates.conversation("{{ messages[0].content }}", CHAT, continue_final_message=True)


def test_a_files_last_newline_is_dropped_once(tmp_path):
    for written, rendered in (("x", "x"), ("x\n", "x"), ("x\n\n", "x\n")):
        (tmp_path / "t.jinja").write_text(written)
        assert templates.conversation(templates.read(tmp_path / "t.jinja"), CHAT) == rendered


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (PLAIN, "string"),
        (CHATML, "string"),
        ("{% for m in messages %}{% for p in m['content'] %}{{ p.text }}{% endfor %}{% endfor %}", "openai"),
        (
            (
                "{% for m in messages[1:] | list %}{% for p in m.content | list %}{{ p.text }}{% "
                "endfor %}{% endfor %}"
            ),
            "openai",
        ),
        (
            "{% set all = messages %}{% for m in all %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "openai",
        ),
        (
            (
                "{% for m in messages %}{% set content = m.content %}{% for p in content %}{% "
                "endfor %}{% endfor %}"
            ),
            "openai",
        ),
        (
            (
                "{% macro show(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ "
                "show(m.content) }}{% endfor %}"
            ),
            "openai",
        ),
        (
            (
                "{% macro show(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ "
                "show(c=m.content) }}{% endfor %}"
            ),
            "openai",
        ),
        (
            (
                "{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ "
                "show(messages[0].role) }}"
            ),
            "string",
        ),
        ("{% for tool in tools %}{{ tool.content }}{% endfor %}", "string"),
        ("{% broken", "string"),
    ],
)
def test_content_format_is_read_from_the_template(template, wanted):
    assert templates.content_format(template) == wanted


# Conversations of a model


def test_a_conversation_is_joined_by_newlines_or_kept_in_parts(tmp_path):
    messages = [
        {"role": "user", "content": ["a", {"type": "text", "text": "b"}, {"type": "input_text", "text": "c"}]}
    ]
    prepare = preparation(tmp_path, "qwen", files={"chat.jinja": PLAIN}, chat_template="chat.jinja")
    assert prepare.chat(messages) == "user: a\nb\nc\n"
    parts = (
        "{% for m in messages %}{% for p in m.content %}{{ p.type }}={{ p.text }};{% endfor %}{% endfor %}"
    )
    assert prepare.chat(messages, chat_template=parts) == "text=a;text=b;text=c;"
    assert prepare.chat(messages, chat_template=PLAIN, content_format="openai").startswith("user: [{")


def test_a_developer_is_the_system_where_the_template_knows_none():
    messages = [{"role": "user", "content": "hi"}, {"role": "developer", "content": "be brief"}]
    assert templates.conversation(PLAIN, messages) == "system: be brief\nuser: hi\n"
    known = PLAIN + "{# developer #}"
    assert templates.conversation(known, messages) == "user: hi\ndeveloper: be brief\n"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one message"),
        ("hi", "must be a list"),
        ([3], "message 0: expected an object with a `role`"),
        ([{"content": "hi"}], "message 0: expected an object with a `role`"),
        ([{"role": "user", "content": 3}], "message 0: content must be text or a list of parts"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "part of type 'image_url' is not text",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "part of type 'text' needs `text`, a string"),
        ([{"role": "user", "content": [3]}], "part of type None"),
    ],
)
def test_what_is_no_conversation_is_told(tmp_path, messages, words):
    prepare = preparation(tmp_path, "qwen", files={"chat.jinja": PLAIN}, chat_template="chat.jinja")
    with pytest.raises(InputError, match=words):
        prepare.chat(messages)


def test_a_model_without_template_says_so(tmp_path):
    with pytest.raises(InputError, match="this model has no chat template"):
        preparation(tmp_path, "qwen").chat(CHAT)


def test_a_caller_may_not_name_the_template_in_its_variables(tmp_path):
    with pytest.raises(InputError, match="reserved keys chat_template"):
        preparation(tmp_path, "qwen").chat(CHAT, chat_template=PLAIN, template_kwargs={"chat_template": "x"})
