"""Texts become items as transformers' tokenizers and vLLM's rules say."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.artifact.manifest import Role
from poolrt.runtime.errors import ArtifactError, InputError
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.inputs.preparation import Preparation
from poolrt.runtime.inputs.prompts import prompts_from
from transformers import PreTrainedTokenizerFast

from tests.runtime.vocabularies import ALL, CORPUS, manifest, preparation

KINDS = sorted(ALL)
LONG = " ".join(CORPUS)


def reference(kind: str) -> PreTrainedTokenizerFast:
    # A copy: transformers switches truncation on and off in the tokenizer itself.
    return PreTrainedTokenizerFast(
        tokenizer_object=type(ALL[kind]()).from_str(ALL[kind]().to_str()), truncation_side="right"
    )


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("special", [True, False], ids=["special tokens", "bare"])
def test_texts_have_the_ids_of_the_reference(tmp_path, kind, special):
    ours = preparation(tmp_path, kind, max_tokens=200).singles(CORPUS, add_special_tokens=special)
    theirs = reference(kind)(CORPUS, add_special_tokens=special)["input_ids"]
    assert [item.ids for item in ours] == theirs
    assert [item.prompt_tokens for item in ours] == [len(ids) for ids in theirs]
    assert not any(item.truncated for item in ours)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from([*CORPUS, LONG, LONG * 20, "x", ""]),
    kept=st.integers(1, 64),
    side=st.sampled_from([None, "left", "right"]),
)
def test_truncated_texts_have_the_ids_of_the_reference(tmp_path_factory, kind, text, kept, side):
    prepare = opened(tmp_path_factory, kind)
    theirs = reference(kind)
    full = theirs(text)["input_ids"]
    if not full:
        return
    cut = full[-kept:] if side == "left" else full[:kept]
    if side is None and kept >= theirs.num_special_tokens_to_add():
        cut = theirs(text, truncation=True, max_length=kept)["input_ids"]
    if not cut:
        return
    [item] = prepare.singles([text], limits=TokenLimits(truncate_prompt_tokens=kept, truncation_side=side))
    assert item.ids == cut
    assert item.truncated == (len(cut) < len(full))
    assert item.prompt_tokens == len(cut)


_OPENED: dict[str, Preparation] = {}


def opened(factory: pytest.TempPathFactory, kind: str) -> Preparation:
    if kind not in _OPENED:
        _OPENED[kind] = preparation(factory.mktemp(kind), kind)
    return _OPENED[kind]


def test_minus_one_keeps_the_models_limit(tmp_path, kind):
    [item] = preparation(tmp_path, kind).singles([LONG], limits=TokenLimits(truncate_prompt_tokens=-1))
    assert len(item.ids) == 64


def test_a_text_of_exactly_the_limit_is_accepted_and_one_token_more_is_not(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    assert len(prepare.singles(["a " * 62])[0].ids) == 64
    with pytest.raises(
        InputError,
        match=r"maximum context length is 64 tokens, found 65.*Please reduce the length " r"of the input",
    ) as caught:
        prepare.singles(["a " * 62, "a " * 63])
    assert caught.value.field == "input_tokens"
    assert "input 1" in str(caught.value)


def test_a_text_that_cannot_fit_is_refused_by_its_characters(tmp_path):
    with pytest.raises(InputError, match="maximum context length is 64 tokens") as caught:
        preparation(tmp_path, "wordpiece").singles(["a " * 50_000])
    assert caught.value.field == "input_text"


def test_a_lower_limit_than_the_models_counts(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    with pytest.raises(InputError, match="maximum context length is 10 tokens"):
        prepare.singles(["a " * 12], limits=TokenLimits(max_tokens=10))
    [item] = prepare.singles(["a " * 12], limits=TokenLimits(max_tokens=10, truncate_prompt_tokens=-1))
    assert len(item.ids) == 10


def test_too_large_a_truncation_is_refused_in_the_agreed_words(tmp_path):
    with pytest.raises(InputError) as caught:
        preparation(tmp_path, "wordpiece").singles(["a"], limits=TokenLimits(truncate_prompt_tokens=65))
    assert str(caught.value) == (
        "truncate_prompt_tokens value is greater than max_model_len. Please request a "
        "smaller truncation size."
    )
    assert caught.value.field == "truncate_prompt_tokens"


def test_ids_are_taken_as_they_are_and_cut_without_special_tokens(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    ids = [2, 10, 11, 12, 3]
    forms = [ids, tuple(ids), np.array(ids, dtype=np.int32), {"prompt_token_ids": ids}]
    assert [item.ids for item in prepare.singles(forms)] == [ids] * 4
    assert prepare.singles([ids], limits=TokenLimits(truncate_prompt_tokens=3))[0].ids == [2, 10, 11]
    assert prepare.singles([ids], limits=TokenLimits(truncate_prompt_tokens=3, truncation_side="left"))[
        0
    ].ids == [
        11,
        12,
        3,
    ]


def test_texts_and_ids_may_be_mixed_and_keep_their_order(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    items = prepare.singles(["fox", [7, 8], {"prompt": "dog"}, [9]])
    assert [item.ids for item in items] == [
        prepare.encoder.tokenize("fox"),
        [7, 8],
        prepare.encoder.tokenize("dog"),
        [9],
    ]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (3, "input 1: expected text or token ids, found int"),
        (None, "input 1: expected text or token ids, found NoneType"),
        (b"bytes", "input 1: expected text or token ids, found bytes"),
        ([], "input 1: the prompt cannot be empty"),
        ([1.5], "flat list of whole numbers"),
        ([[1], [2, 3]], "flat list of whole numbers"),
        (["a"], "flat list of whole numbers"),
        ([-1], "token id -1 is out of vocabulary"),
        ([10**6], "token id 1000000 is out of vocabulary"),
        ([10**30], "out of vocabulary"),
        ([2**63], "out of vocabulary"),
        ("a\ud800", r"input 1: character 1 is a lone surrogate \(U\+D800\)"),
        ({"prompt": "\udfff"}, "input 1: character 0 is a lone surrogate"),
        ({"prompt": 3}, "input 1: expected text, found int"),
        ({"text": "a"}, "input 1: an object needs the key 'prompt'"),
    ],
    ids=repr,
)
def test_what_is_no_prompt_is_told_with_its_place(tmp_path, prompt, words):
    with pytest.raises(InputError, match=words):
        preparation(tmp_path, "wordpiece").singles(["fine", prompt])


def test_prompts_without_tokens_are_refused(tmp_path):
    prepare = preparation(tmp_path, "qwen")
    for prompts, limits in (([""], TokenLimits()), (["a"], TokenLimits(truncate_prompt_tokens=0))):
        with pytest.raises(InputError, match="prompt cannot be empty"):
            prepare.singles(prompts, limits=limits)
    with pytest.raises(InputError, match="at least one prompt"):
        prepare.singles([])


def test_an_empty_text_is_its_special_tokens(tmp_path):
    assert preparation(tmp_path, "wordpiece").singles([""])[0].ids == [2, 3]


def test_text_with_ids_beyond_the_models_table_is_refused(tmp_path):
    prepare = preparation(tmp_path, "qwen", vocab_size=ALL["qwen"]().token_to_id("<|im_start|>"))
    prepare.singles(["fox"])
    with pytest.raises(InputError, match="out of vocabulary"):
        prepare.singles(["<|im_start|>fox"])


def test_lower_casing_is_for_single_texts_only(tmp_path):
    prepare = preparation(tmp_path, "roberta", lowercase=True)
    assert prepare.singles(["ÊTRE Fox"])[0].ids == prepare.singles(["être fox"])[0].ids
    assert prepare.pairs(["Fox"], ["Dog"])[0].ids != prepare.pairs(["fox"], ["dog"])[0].ids


def test_stored_prompts_are_put_in_front_when_asked_for(tmp_path):
    prepare = preparation(tmp_path, "roberta", prompts={"query": "query: "}, default_prompt="query")
    assert prepare.singles(["fox"], prompt_name="query")[0].ids == prepare.encoder.tokenize("query: fox")
    assert prepare.singles(["fox"])[0].ids == prepare.encoder.tokenize("fox")
    with pytest.raises(InputError, match="no prompt is named 'passage'; this model's are: 'query'"):
        prepare.singles(["fox"], prompt_name="passage")


def test_a_roles_prefix_belongs_to_the_models_own_preparation(tmp_path):
    roles = {"query": Role(prefix="query: "), "document": Role(prefix="passage: ")}
    own = preparation(tmp_path, "roberta", roles=roles)
    assert own.singles(["fox"], role="query")[0].ids == own.encoder.tokenize("query: fox")
    assert own.singles(["fox"], role="document")[0].ids == own.encoder.tokenize("passage: fox")
    assert preparation(tmp_path, "roberta", roles=roles, style="vllm").singles(["fox"], role="query")[
        0
    ].ids == own.encoder.tokenize("fox")


def test_a_files_own_truncation_and_padding_do_not_apply(tmp_path):
    tokenizer = type(ALL["wordpiece"]()).from_str(ALL["wordpiece"]().to_str())
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    [item] = Preparation(tmp_path, manifest(tokenizer)).singles(["a b c d e f g h i j"])
    assert len(item.ids) == 12


def test_a_broken_tokenizer_file_is_an_artifact_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a readable tokenizer"):
        Preparation(Path(tmp_path), manifest(ALL["wordpiece"]()))


def test_ids_become_text_again(tmp_path, kind):
    prepare = preparation(tmp_path, kind)
    assert "quick" in prepare.encoder.detokenize(prepare.encoder.tokenize("quick"))
    assert (
        prepare.encoder.pieces(prepare.encoder.tokenize("quick", add_special_tokens=False))
        == ALL[kind]().encode("quick", add_special_tokens=False).tokens
    )
    wrong: list[Any] = [[-1], [2**63], ["a"]]
    for ids in wrong:
        with pytest.raises(InputError):
            prepare.encoder.detokenize(ids)


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
        ({"prompt": "a"}, [{"prompt": "a"}]),
        (["a", [1], {"prompt": "b"}], ["a", [1], {"prompt": "b"}]),
        ([], []),
    ],
    ids=repr,
)
def test_an_argument_means_one_prompt_or_many(value, prompts):
    assert prompts_from(value) == prompts


def test_threads_share_one_preparation(tmp_path):
    prepare = preparation(tmp_path, "wordpiece")
    limits = [TokenLimits(truncate_prompt_tokens=kept) for kept in range(3, 30)]
    alone = [[item.ids for item in prepare.singles(CORPUS, limits=limit)] for limit in limits]
    found: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        found[number] = [item.ids for item in prepare.singles(CORPUS, limits=limits[number])]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(limits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(limits))] == alone
