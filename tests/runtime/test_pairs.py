"""Pairs have the ids and type ids of transformers' tokenizers and of vLLM's scoring rules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.inputs.preparation import Preparation
from transformers import PreTrainedTokenizerFast

from tests.runtime.vocabularies import ALL, CORPUS, preparation

KINDS = sorted(ALL)
LONG = " ".join(CORPUS)
TEMPLATE = "<Q>{{ messages[0].content }}<D>{{ messages[1].content }}\nIs it relevant? The answer:\n\n"

_OPENED: dict[str, Preparation] = {}


def opened(factory: pytest.TempPathFactory, kind: str) -> Preparation:
    if kind not in _OPENED:
        _OPENED[kind] = preparation(factory.mktemp(kind), kind)
    return _OPENED[kind]


def reference(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = type(ALL[kind]()).from_str(ALL[kind]().to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        truncation_side="right",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def pair(theirs: PreTrainedTokenizerFast, query: str, document: str, **options: Any) -> dict[str, list[int]]:
    """As Sentence Transformers' CrossEncoder asks: in a batch, where an empty
    document is a second text too."""
    return {name: values[0] for name, values in theirs([query], [document], **options).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_vllms_way_takes_an_empty_document_for_none(tmp_path, kind):
    prepare, theirs = preparation(tmp_path, kind), reference(kind)
    alone = theirs("the fox", "")["input_ids"]  # as vLLM asks: one pair at a time
    assert alone == theirs("the fox")["input_ids"]
    vllm = Preparation(prepare.folder, prepare.manifest, style="vllm")
    assert vllm.pairs(["the fox"], [""])[0].ids == alone
    assert prepare.pairs(["the fox"], [""])[0].ids == pair(theirs, "the fox", "")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(
    query=st.sampled_from([*CORPUS[:8], "x", "", LONG]),
    document=st.sampled_from([*CORPUS[:8], "x", "", LONG, LONG * 30]),
    kept=st.one_of(st.none(), st.integers(1, 64)),
    side=st.sampled_from([None, "left", "right"]),
)
def test_a_pair_is_the_references(tmp_path_factory, kind, query, document, kept, side):
    prepare, theirs = opened(tmp_path_factory, kind), reference(kind)
    full = pair(theirs, query, document)
    ids, types = full["input_ids"], full["token_type_ids"]
    limits = TokenLimits(truncate_prompt_tokens=kept, truncation_side=side)
    if kept is None and len(ids) > 64:
        with pytest.raises(InputError, match="Please reduce the length of the input prompt") as caught:
            prepare.pairs([query], [document], limits=limits)
        assert caught.value.field == "input_tokens"
        return
    if kept is not None:
        cut = slice(-kept, None) if side == "left" else slice(kept)
        if side is None and kept >= theirs.num_special_tokens_to_add(pair=True):
            full = pair(theirs, query, document, truncation=True, max_length=kept)
            cut = slice(None)
        ids, types = full["input_ids"][cut], full["token_type_ids"][cut]
    if not ids:
        return
    [item] = prepare.pairs([query], [document], limits=limits)
    assert item.ids == ids
    assert (item.type_ids or [0] * len(ids)) == types
    assert item.prompt_tokens == len(ids)
    assert item.attention is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_query_goes_with_every_document(tmp_path, kind):
    prepare = preparation(tmp_path, kind, max_tokens=200)
    assert prepare.pairs(["fox"], CORPUS[:4]) == [prepare.pairs(["fox"], [text])[0] for text in CORPUS[:4]]
    assert prepare.pairs(["a", "b"], ["c", "d"]) == [
        prepare.pairs(["a"], ["c"])[0],
        prepare.pairs(["b"], ["d"])[0],
    ]


@pytest.mark.parametrize(
    ("queries", "documents", "words"),
    [
        (["a", "b"], ["c"], "^Input lengths must be either 1:1, 1:N or N:N$"),
        (["a", "b"], ["c", "d", "e"], "^Input lengths must be either 1:1, 1:N or N:N$"),
        ([], ["c"], "^At least one text element must be given$"),
        (["a"], [], "^At least one text_pair element must be given$"),
        (["a"], ["b", 3], r"^documents\[1\]: expected text, found int$"),
        (["a"], ["b", "\ud800"], r"^documents\[1\]: character 0 is a lone surrogate"),
        ("a", ["b"], "^queries: expected a list of texts"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_makes_no_pairs_is_told(tmp_path, queries, documents, words):
    with pytest.raises(InputError, match=words):
        preparation(tmp_path, "wordpiece").pairs(queries, documents)


def test_type_ids_are_left_out_where_the_graph_has_no_such_input(tmp_path):
    prepare = preparation(tmp_path, "unigram", inputs=("input_ids", "attention_mask"))
    assert prepare.pairs(["a"], ["b"])[0].type_ids is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("per_query", "per_doc"), [(3, 0), (0, 3), (3, 5), (63, 63), (1, 1)])
def test_each_side_is_cut_to_its_own_number_of_tokens(tmp_path, kind, per_query, per_doc):
    prepare, theirs = preparation(tmp_path, kind), reference(kind)

    def cut(text: str, tokens: int) -> str:
        while tokens and text:
            found = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
            if len(found["input_ids"]) <= tokens:
                break
            offsets = found["offset_mapping"]
            text = text[: min(offsets[tokens - 1][1], offsets[tokens][0], len(text) - 1)]
        return text

    for query, document in itertools.pairwise(CORPUS[:8]):
        expected = pair(theirs, cut(query, per_query), cut(document, per_doc))["input_ids"]
        if not 0 < len(expected) <= 64:
            continue
        [item] = prepare.pairs(
            [query], [document], max_tokens_per_query=per_query, max_tokens_per_doc=per_doc
        )
        assert item.ids == expected
        assert item.truncated == ((cut(query, per_query), cut(document, per_doc)) != (query, document))


@pytest.mark.parametrize(
    ("value", "words"),
    [(-5, "must be a non-negative integer"), (64, "must be less than max_model_len"), (True, "must be")],
)
@pytest.mark.parametrize("name", ["max_tokens_per_query", "max_tokens_per_doc"])
def test_a_side_limit_that_cannot_be_is_refused(tmp_path, name, value, words):
    with pytest.raises(InputError, match=f"{name}.*{words}") as caught:
        preparation(tmp_path, "wordpiece").pairs(["a"], ["b"], **{name: value})
    assert caught.value.field == name


def test_a_document_limit_leaves_the_query_whole(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    [item] = prepare.pairs(
        ["a " * 30], ["b " * 60], limits=TokenLimits(truncate_prompt_tokens=40), max_tokens_per_doc=50
    )
    assert len(item.ids) == 40
    assert item.type_ids is not None
    assert item.type_ids.count(0) == 32
    with pytest.raises(InputError, match="no document fits"):
        prepare.pairs(
            ["a " * 50], ["b " * 60], limits=TokenLimits(truncate_prompt_tokens=40), max_tokens_per_doc=50
        )


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_document_is_shortened_on_request(tmp_path, kind):
    prepare, theirs = preparation(tmp_path, kind), reference(kind)
    query = "capital of Italy?"
    [item] = prepare.pairs([query], [LONG], limits=TokenLimits(truncate_prompt_tokens=40, cut_document=True))
    assert item.ids == theirs(query, LONG, truncation="only_second", max_length=40)["input_ids"]
    assert item.truncated
    assert not prepare.pairs(
        [query], ["Rome"], limits=TokenLimits(truncate_prompt_tokens=40, cut_document=True)
    )[0].truncated


@pytest.mark.parametrize("kind", KINDS)
def test_concatenated_sides_are_one_text(tmp_path, kind):
    prepare, theirs = preparation(tmp_path, kind, pair="concatenate"), reference(kind)
    [item] = prepare.pairs(["quick fox"], ["lazy dog"])
    assert item.ids == theirs("quick foxlazy dog")["input_ids"]
    assert item.type_ids is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_templates_text_is_tokenised_with_special_tokens(tmp_path, kind):
    prepare, theirs = preparation(tmp_path, kind), reference(kind)
    [item] = prepare.pairs(["quick fox"], ["lazy dog"], template=TEMPLATE)
    assert item.ids == theirs("<Q>quick fox<D>lazy dog\nIs it relevant? The answer:\n")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "document", [LONG, LONG * 30, "北京是中国的首都，" * 3000], ids=["long", "longer", "chinese"]
)
def test_a_templates_end_survives_truncation(tmp_path, kind, document):
    prepare = preparation(tmp_path, kind, max_tokens=100)
    plain = preparation(tmp_path, kind, max_tokens=100, style="vllm")
    limits = TokenLimits(truncate_prompt_tokens=90)
    [item] = prepare.pairs(["quick fox"], [document], limits=limits, template=TEMPLATE)
    [cut] = plain.pairs(["quick fox"], [document], limits=limits, template=TEMPLATE)
    text = prepare.encoder.detokenize(item.ids).lower().replace(" ", "")
    assert "isitrelevant?theanswer:" in text
    assert "quickfox" in text
    assert item.truncated
    assert 80 <= len(item.ids) <= 90
    assert "isitrelevant" not in plain.encoder.detokenize(cut.ids).lower().replace(" ", "")
    assert len(cut.ids) == 90


def test_a_template_that_leaves_no_room_says_so(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    with pytest.raises(
        InputError, match=r"the query and what stands around the document need \d+ " r"tokens of 10"
    ):
        prepare.pairs(["quick fox"], [LONG], limits=TokenLimits(truncate_prompt_tokens=10), template=TEMPLATE)


def test_an_artifacts_own_score_template_is_not_for_vllms_preparation(tmp_path):
    files = {"score.jinja": TEMPLATE}
    own = preparation(tmp_path, "roberta", files=files, score_template="score.jinja")
    vllm = preparation(tmp_path, "roberta", files=files, score_template="score.jinja", style="vllm")
    assert own.pairs(["a"], ["b"]) == vllm.pairs(["a"], ["b"], template=TEMPLATE)
    assert vllm.pairs(["a"], ["b"])[0].ids == reference("roberta")("a", "b")["input_ids"]


def test_template_variables_reach_the_template(tmp_path):
    prepare = preparation(tmp_path, "roberta")
    template = "{{ instruction }}: {{ messages[0].content }} {{ messages[1].content }}"
    [item] = prepare.pairs(
        ["a"], ["b"], template=template, template_variables={"instruction": "Judge", "unused": 1}
    )
    assert item.ids == prepare.encoder.tokenize("Judge: a b")
    with pytest.raises(InputError, match="reserved keys tools"):
        prepare.pairs(["a"], ["b"], template=template, template_variables={"tools": []})


def test_sides_are_cut_for_those_who_encode_them_alone(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    [text] = prepare.cut_side([LONG], 7)
    assert LONG.startswith(text)
    assert len(prepare.encoder.tokenize(text, add_special_tokens=False)) == 7
    assert prepare.cut_side(["fox"], 7) == ["fox"]
    assert prepare.cut_side([LONG], 0) == [LONG]
