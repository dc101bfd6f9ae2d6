"""What a caller may write beside a prompt: parameters, tokenization_kwargs, forms of prompts."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import outputs, progress
from poolrt.runtime.answers import params
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.artifact.manifest import Head, Manifest, Source, TextPreparation
from poolrt.runtime.errors import InputError, UnsupportedTask
from poolrt.runtime.inputs import prompts
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.inputs.prompts import from_mapping, prompts_from, token_ids
from poolrt.runtime.inputs.tokenization import shortened, tokenization
from poolrt.runtime.outputs import EmbeddingOutput, Outputs, PoolingOutput, RequestOutput


def manifest(**facts: Any) -> Manifest:
    heads = {
        "embed": Head(output="a", dim=8, pool="mean", activation="l2", **facts),
        "classify": Head(output="b", dim=3, pool="cls", activation="softmax"),
        "token_classify": Head(output="c", dim=4, pool="step", activation="softmax"),
    }
    return Manifest(
        format=1, name="m", architecture="BertModel", source=Source(checkpoint="m"),
        tasks=("embed", "classify", "token_classify"),
        scoring=None, text=TextPreparation(max_tokens=16, vocab_size=100, pad_id=0), graphs=(), heads=heads,
    )  # fmt: skip


# --- PoolingParams
# ------------------------------------------------------------------------------------------------------------


def test_every_prompt_gets_its_params():
    one, two = PoolingParams(dimensions=2), PoolingParams(use_activation=False)
    assert params.per_prompt(None, 2) == [PoolingParams()] * 2
    assert params.per_prompt(one, 2) == [one, one]
    assert params.per_prompt([one, None], 2) == [one, PoolingParams()]
    assert params.without_dimensions([one, two], 2) == [PoolingParams(), two]
    assert one.dimensions == 2
    assert params.single([one]) == params.single(one) == one
    for wrong, told in (
        ([one], r"\(2\) and pooling_params \(1\)"),
        ("text", "found str"),
        ({"a": 1}, "found dict"),
        (5, "found int"),
    ):
        with pytest.raises(InputError, match=told):
            params.per_prompt(wrong, 2)  # pyright: ignore[reportArgumentType]


def test_the_older_task_of_a_score_is_classify():
    with pytest.warns(DeprecationWarning, match="means task='classify'"):
        assert PoolingParams(task="score").task == "classify"
    assert params.check_task(manifest(), "score") == "classify"


def test_a_task_that_is_not_there_is_told_in_vllms_words():
    assert params.check_task(manifest(), "embed") == "embed"
    with pytest.raises(
        UnsupportedTask,
        match=r"Unsupported task: 'token_embed' Supported tasks: \('embed', 'classify', "
        r"'token_classify'\)",
    ):
        params.check_task(manifest(), "token_embed")
    with pytest.raises(UnsupportedTask, match="No IOProcessor plugin installed"):
        params.check_task(manifest(), "plugin")


@pytest.mark.parametrize(
    ("facts", "dimensions", "told"),
    [
        ({}, 8, None), ({}, 7, "does not support matryoshka"), ({}, True, "expected a whole number"),
        ({}, 4.0, "expected a whole number"),
        ({"any_dimension": True}, 1, None), ({"any_dimension": True}, 7, None),
        ({"any_dimension": True}, 0, "from 1 to 8, found 0"),
        ({"any_dimension": True}, 9, "from 1 to 8, found 9"), ({"any_dimension": True}, -1, "from 1 to 8"),
        ({"matryoshka": (2, 4)}, 2, None), ({"matryoshka": (2, 4)}, 4, None),
        ({"matryoshka": (2, 4)}, 3, r"only supports \[2, 4\]"),
        ({"matryoshka": (2, 4)}, 8, None),
    ],
)  # fmt: skip
def test_widths_are_those_that_the_model_was_trained_for(
    facts: dict[str, Any], dimensions: Any, told: str | None
):
    if told is None:
        params.check(manifest(**facts), "embed", PoolingParams(dimensions=dimensions))
        return
    with pytest.raises(InputError, match=told) as refused:
        params.check(manifest(**facts), "embed", PoolingParams(dimensions=dimensions))
    assert refused.value.field == "dimensions"


@pytest.mark.parametrize(
    ("task", "asked", "told"),
    [
        ("classify", {"dimensions": 2}, "only for embeddings, not for task 'classify'"),
        ("classify", {"task": "embed"},
        "cannot overwrite PoolingParams.task='embed' with pooling_task='classify'"),
        ("classify", {"use_activation": "yes"}, "expected true or false"),
        ("classify", {"use_activation": 1}, "expected true or false"),
        ("embed", {"step_tag_id": 5},
        "step_tag_id is only for models with STEP pooling; this head pools MEAN"),
        ("classify", {"returned_token_ids": [1]}, "returned_token_ids is only for models with STEP"),
        ("token_classify", {"returned_token_ids": [0, 4]}, "4 is not one of this head's 4 columns"),
        ("token_classify", {"returned_token_ids": [-1]}, "-1 is not one of"),
    ],
)  # fmt: skip
def test_what_a_head_cannot_follow_is_refused(task: Any, asked: dict[str, Any], told: str):
    with pytest.raises(InputError, match=told):
        params.check(manifest(), task, PoolingParams(**asked))


def test_what_a_head_can_follow_is_taken():
    params.check(
        manifest(),
        "token_classify",
        PoolingParams(step_tag_id=5, returned_token_ids=[0, 3], task="token_classify"),
    )
    params.check(manifest(), "classify", PoolingParams(use_activation=False, task="classify"))


def test_arguments_of_a_score_win_over_extra_kwargs():
    extra = {"chat_template_kwargs": {"a": 1, "b": 2}, "max_tokens_per_query": 3, "max_tokens_per_doc": 4}
    asked = PoolingParams(extra_kwargs=extra)
    options = params.score_options(asked, {"b": 3}, "do", 0, 7)
    assert options == {
        "variables": {"a": 1, "b": 3, "instruction": "do"},
        "max_tokens_per_query": 3,
        "max_tokens_per_doc": 7,
    }
    assert params.score_options(asked, {"instruction": "own"}, "do", 9, 0)["variables"] == {
        "a": 1,
        "b": 2,
        "instruction": "own",
    }
    assert params.score_options(PoolingParams(), None, None, 0, 0) == {
        "variables": None, "max_tokens_per_query": 0, "max_tokens_per_doc": 0,
    }  # fmt: skip
    with pytest.raises(InputError, match="unknown 'c', 'd'; known are"):
        params.score_options(PoolingParams(extra_kwargs={"d": 1, "c": 2}), None, None, 0, 0)


# --- tokenization_kwargs
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, 5), ({}, 5), ({"truncation": True}, -1), ({"truncation": False}, 5), ({"max_length": 9}, 9),
        ({"max_length": 9, "truncation": True}, 9), ({"max_length": 9, "truncation": False}, 5),
        ({"truncate_prompt_tokens": 3}, 3), ({"truncate_prompt_tokens": 3, "max_length": 9}, 3),
        ({"truncation": "longest_first"}, -1),
        ({"padding": True, "return_tensors": "pt"}, 5),
    ],
)  # fmt: skip
def test_tokenization_kwargs_win_over_arguments(given: dict[str, Any] | None, kept: int):
    options = tokenization(given, truncate_prompt_tokens=5, truncation_side="left", cut_document=True)
    assert options.limits == TokenLimits(
        truncate_prompt_tokens=kept, truncation_side="left", cut_document=True
    )
    assert options.add_special_tokens is True


def test_sides_and_special_tokens_may_stand_in_tokenization_kwargs():
    options = tokenization({"truncation_side": "right", "add_special_tokens": False}, truncation_side="left")
    assert (options.limits.truncation_side, options.add_special_tokens) == ("right", False)
    with pytest.warns(UserWarning, match="'a', 'b' ignored"):
        tokenization({"b": 1, "a": 2})
    with pytest.warns(UserWarning, match="do_lower_case is fixed"):
        tokenization({"do_lower_case": False})
    with pytest.raises(InputError, match="expected an object, found list"):
        tokenization([])  # pyright: ignore[reportArgumentType]


def test_max_embed_len_lowers_the_limit_of_embeddings_only():
    import dataclasses

    lower = dataclasses.replace(manifest(), max_embed_tokens=8)
    assert shortened(TokenLimits(), lower, "embed").max_tokens == 8
    assert shortened(TokenLimits(), lower, "classify").max_tokens is None
    for most in (None, 16, 20):
        assert (
            shortened(
                TokenLimits(), dataclasses.replace(manifest(), max_embed_tokens=most), "embed"
            ).max_tokens
            is None
        )


# --- prompts
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("text", 1), (["a", "b"], 2), ([1, 2, 3], 1), (np.array([1, 2, 3]), 1), ([[1, 2], [3]], 2),
        (np.array([[1, 2], [3, 4]]), 2),
        ({"prompt": "a"}, 1), ([{"prompt": "a"}, "b"], 2), (("a", "b"), 2), ([np.int64(1), 2], 1), ([], 0),
        (["a", 1], 2),
    ],
    ids=str,
)  # fmt: skip
def test_one_text_one_list_of_ids_and_one_object_are_one_prompt(value: Any, count: int):
    assert len(prompts_from(value)) == count


@pytest.mark.parametrize("value", [5, b"text", bytearray(b"a"), None, {1, 2}], ids=str)
def test_what_is_no_prompt_is_refused(value: Any):
    with pytest.raises(InputError, match="expected text, token ids or a list"):
        prompts_from(value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([0, 99], None), (np.array([5], np.uint8), None), ([], "cannot be empty"), ("abc", "flat list"),
        (b"abc", "found bytes"),
        ([1, 100], "token id 100 is out of vocabulary"), ([-1, 5], "token id -1 is out of vocabulary"),
        ([1, 2**70], "out of vocabulary"),
        ([1.0, 2.0], "flat list of whole numbers"), ([[1], [2, 3]], "flat list"), ([True, 2], "flat list"),
        ([1, "2"], "flat list"),
        (5, "found int"),
    ],
    ids=str,
)  # fmt: skip
def test_token_ids_have_a_row_each(value: Any, told: str | None):
    if told is None:
        assert token_ids(value, 0, 100) == list(value)
        return
    with pytest.raises(InputError, match=told) as refused:
        token_ids(value, 3, 100, field="tokens")
    assert refused.value.field == "tokens"
    assert "input 3" in str(refused.value)


def test_an_object_holds_text_or_ids():
    assert from_mapping({"prompt": "a"}, 0) == "a"
    assert from_mapping({"prompt_token_ids": [1], "prompt": "a"}, 0) == [1]
    for wrong, told in (
        ({"text": "a", 5: 1}, r"found \['5', 'text'\]"),
        ({"prompt": 5}, "input 2"),
        ({"prompt_token_ids": "a"}, "found str"),
    ):
        with pytest.raises(InputError, match=told):
            from_mapping(wrong, 2)


def test_prompts_of_other_models_are_refused():
    assert prompts.checked(["a"]) == ["a"]
    for wrong, told in (
        ([], "at least one prompt"), (["a", {"data": 1}], "input 1: a prompt with 'data'"),
        ([{"prompt": "a", "multi_modal_data": {"image": 1}}], "reads text only"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            prompts.checked(wrong)
    assert len(prompts.checked([{"prompt": "a", "multi_modal_data": None}])) == 1


@pytest.mark.parametrize("given", [None, [None, None], []])
def test_no_adapter_is_no_request_for_one(given: Any):
    params.refuse_lora(given)
    with pytest.raises(InputError, match="merged at export"):
        params.refuse_lora([*(given or []), object()])


# --- progress and outputs
# ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_by_the_callers_own_bar(monkeypatch: pytest.MonkeyPatch):
    told: list[Any] = []

    class Bar:
        def __init__(self, **facts: Any) -> None:
            told.append(facts["total"])

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            told.append("closed")

        def update(self, count: int) -> None:
            told.append(count)

    with progress.bar(Bar, 7) as update:
        assert update is not None
        update(3)
    assert told == [7, 3, "closed"]
    with progress.bar(False, 7) as update:
        assert update is None
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with progress.bar(True, 7) as update:
        assert update is not None
        update(3)
        update(4)
    assert written.getvalue() == "\rProcessed prompts: 3/7\rProcessed prompts: 7/7\n"


def test_outputs_of_another_kind_keep_their_facts():
    from poolrt.runtime.outputs import EmbeddingRequestOutput

    request = RequestOutput(PoolingOutput(np.ones(2, np.float32)), [1, 2], 3, True, "id")
    (made,) = outputs.mapped(
        Outputs((request,), 0.5), EmbeddingRequestOutput, lambda one: EmbeddingOutput(one.data)
    )
    assert type(made) is EmbeddingRequestOutput
    assert (
        made.outputs.hidden_size,
        made.prompt_token_ids,
        made.prompt_tokens,
        made.truncated,
        made.request_id,
    ) == (
        2,
        [1, 2],
        3,
        True,
        "id",
    )
    assert (
        outputs.mapped(
            Outputs((request,), 0.5), EmbeddingRequestOutput, lambda one: EmbeddingOutput(one.data)
        ).padding
        == 0.5
    )
