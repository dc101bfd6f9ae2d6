"""Overrides of a finished artifact: what it is already, what changes no graph, and the option for the rest.
And PoolerConfig's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from poolrt.runtime.artifact import overrides
from poolrt.runtime.artifact.manifest import FORMAT, Graph, Head, Manifest, Source, Task, TextPreparation
from poolrt.runtime.errors import InputError
from poolrt.runtime.vllm import llm
from poolrt.runtime.vllm.pooler_config import PoolerConfig

EMBED = Head(output="out_embed", dim=8, pool="mean", activation="l2")
ROWS = Head(output="out_token_embed", dim=8, pool="tokens", activation="l2")


def manifest(
    tasks: tuple[Task, ...] = ("embed", "token_embed"), asked: dict[str, object] | None = None, **heads: Head
) -> Manifest:
    return Manifest(
        format=FORMAT, name="m", architecture="BertModel",
        source=Source(checkpoint="m", overrides=asked or {}), tasks=tasks, scoring=None,
        text=TextPreparation(max_tokens=8, vocab_size=9, pad_id=0), graphs=(),
        heads=dict(heads) or {"embed": EMBED, "token_embed": ROWS},
        config={"model_type": "bert", "num_labels": 2},
    )  # fmt: skip


CLASSIFY = manifest(("classify",), classify=Head(output="o", dim=2, pool="cls", activation="identity"))
REWARD = manifest(
    ("token_classify",), token_classify=Head(output="o", dim=1, pool="tokens", activation="sigmoid")
)


@pytest.mark.parametrize(
    ("of", "convert", "wanted"),
    [
        (manifest(), None, []), (manifest(), "auto", []), (manifest(), "none", []), (manifest(), "embed", []),
        (manifest(), "reward", []),
        (manifest(), "classify", ["--convert classify"]),
        (manifest(asked={"convert": "classify"}), "classify", []),
        (CLASSIFY, "classify", []), (CLASSIFY, "embed", ["--convert embed"]),
        (CLASSIFY, "reward", ["--convert reward"]),
        (REWARD, "reward", []), (REWARD, "classify", []), (REWARD, "embed", ["--convert embed"]),
        (replace(manifest(), tasks=("token_embed",)), "embed", []),
        (replace(manifest(), tasks=("token_embed",)), "reward", []),
    ],
)  # fmt: skip
def test_a_conversion_is_one_of_its_first_task(of: Manifest, convert: str | None, wanted: list[str]):
    assert list(overrides.undone(of, {}, convert, {})) == wanted


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"model_type": "bert", "num_labels": 2}, None),
        ({"num_labels": 3, "model_type": "bert"}, "'{\"num_labels\": 3}'"),
        ({"architectures": ["BertModel"]}, None),
        ({"architectures": ["RobertaModel"]}, "RobertaModel"),
        ({"architectures": None}, "null"),
        ({"is_matryoshka": True, "matryoshka_dimensions": [4]}, None),
        ({"is_causal": False}, None),
        ({"is_causal": True}, "is_causal"),
        ({"rope_theta": 1}, "rope_theta"),
    ],
)
def test_settings_that_the_export_had_are_there(asked: dict[str, Any], left: str | None):
    found = list(overrides.undone(manifest(asked={"hf_overrides": {"is_causal": False}}), asked, None, {}))
    assert len(found) == (left is not None)
    assert all(option.startswith("--hf-overrides ") and str(left) in option for option in found)


@pytest.mark.parametrize(
    ("of", "asked", "done"),
    [
        (manifest(), {"pooling_type": "MEAN"}, True), (manifest(), {"pooling_type": "mean"}, True),
        (manifest(), {"pooling_type": "CLS"}, False),
        (manifest(), {"seq_pooling_type": "MEAN"}, True), (manifest(), {"tok_pooling_type": "ALL"}, False),
        (REWARD, {"tok_pooling_type": "ALL"}, True), (REWARD, {"pooling_type": "STEP"}, False),
        (manifest(), {"task": "token_embed"}, True), (manifest(), {"task": "classify"}, False),
        (manifest(), {"use_activation": True}, True), (manifest(), {"use_activation": False}, False),
        (CLASSIFY, {"use_activation": False}, True), (CLASSIFY, {"use_activation": True}, False),
        (manifest(), {"dimensions": 4}, False),
        (manifest(embed=replace(EMBED, dimensions=4)), {"dimensions": 4}, True),
        (manifest(), {"logit_mean": 4}, False),
        (manifest(asked={"pooler_config": {"logit_mean": 4}}), {"logit_mean": 4}, True),
        (manifest(asked={"pooler_config": {"logit_mean": 4}}), {"logit_mean": 5}, False),
    ],
)  # fmt: skip
def test_a_pooler_that_the_head_is_already(of: Manifest, asked: dict[str, Any], done: bool):
    assert [option.split()[0] for option in overrides.undone(of, {}, None, asked)] == (
        [] if done else ["--pooler-config"]
    )


@pytest.mark.parametrize(
    ("asked", "ladder"),
    [
        ({"is_matryoshka": True}, ((), True)),
        ({"is_matryoshka": False}, ((), False)),
        ({"matryoshka_dimensions": [8, 1]}, ((1, 8), False)),
        ({"matryoshka_dimensions": (4,), "is_matryoshka": True}, ((4,), False)),
    ],
)
def test_widths_of_a_finished_artifact(asked: dict[str, Any], ladder: tuple[tuple[int, ...], bool]):
    of = manifest(
        embed=replace(EMBED, matryoshka=(2,)), token_embed=ROWS, classify=CLASSIFY.heads["classify"]
    )
    heads = overrides.widened(of, asked).heads
    for task in ("embed", "token_embed"):
        assert (heads[task].matryoshka, heads[task].any_dimension) == ladder
    assert heads["classify"] == of.heads["classify"]
    assert of.heads["embed"].matryoshka == (2,)
    assert overrides.widened(of, {"num_labels": 2}) is of


@pytest.mark.parametrize("widths", [[], [0], [9], [True], [2.0], "4", {4: 4}, 4])
def test_a_width_that_the_model_does_not_have_is_refused(widths: Any):
    with pytest.raises(InputError, match="expected widths from 1 to the model's 8") as error:
        overrides.widened(manifest(), {"matryoshka_dimensions": widths})
    assert error.value.field == "hf_overrides"


def test_what_has_no_dense_vectors_has_no_widths():
    for of in (CLASSIFY, manifest(embed=replace(EMBED, sparse=True))):
        with pytest.raises(InputError, match="no dense vectors") as error:
            overrides.widened(of, {"is_matryoshka": True})
        assert error.value.field == "hf_overrides"
    with pytest.raises(InputError, match="is_matryoshka is 1, expected true or false"):
        overrides.widened(manifest(), {"is_matryoshka": 1})
    only_rows = manifest(("token_embed",), token_embed=ROWS)
    assert overrides.widened(only_rows, {"matryoshka_dimensions": [8]}).heads["token_embed"].matryoshka == (
        8,
    )


def test_a_pooler_config_says_each_thing_once():
    wrongs: tuple[dict[str, Any], ...] = (
        {"pooling_type": "CLS", "seq_pooling_type": "CLS"},
        {"pooling_type": "ALL", "tok_pooling_type": "ALL"},
        {"logit_mean": 0.0, "logit_bias": 0.0}, {"logit_sigma": 0.0}, {"dimensions": 0},
    )  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"cannot be|give one of them|at least 1"):
            PoolerConfig(**wrong)
    assert PoolerConfig(
        seq_pooling_type="LAST", tok_pooling_type="STEP", dimensions=1, logit_sigma=-1.0
    ).steps


def test_what_a_pooler_config_asks_for():
    assert [PoolerConfig(pooling_type=kind).pool for kind in ("CLS", "MEAN_SQRT_LEN", "ALL", "STEP")] == [
        "cls",
        "mean_sqrt_len",
        None,
        None,
    ]
    assert PoolerConfig(seq_pooling_type="MAX").pool == "max"
    assert [PoolerConfig(pooling_type=kind).steps for kind in ("STEP", "ALL", None)] == [True, False, False]
    assert (PoolerConfig(logit_bias=2.0).mean, PoolerConfig(logit_mean=0.0).mean, PoolerConfig().mean) == (
        2.0,
        0.0,
        None,
    )
    assert PoolerConfig(enable_chunked_processing=False).changed() == {}
    assert PoolerConfig(use_activation=False, dimensions=4).changed() == {
        "use_activation": False,
        "dimensions": 4,
    }


# --- the constructor's keywords
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"runner": "auto"}, None), ({"runner": "pooling"}, None),
        ({"runner": "generate"}, "artifacts answer pooling tasks only"),
        ({"tokenizer": "m"}, None), ({"tokenizer": None}, None),
        ({"tokenizer": "other"}, "tokenizer='other' changes the answers"),
        ({"tokenizer_revision": "v1"}, None), ({"tokenizer_revision": "v2"}, "tokenizer_revision='v2'"),
        ({"trust_remote_code": True, "seed": 1, "gpu_memory_utilization": 0.5, "enforce_eager": True,
        "max_loras": 4}, None),
        ({"task": "embed", "dtype": "half"}, None), ({"quantization": None}, None),
        ({"quantization": "fp8"}, "quantization='fp8' changes"),
        ({"temperature": 1}, "temperature: not a keyword that poolrt knows"),
    ],
)  # fmt: skip
def test_keywords_that_change_answers_are_refused_and_others_pass(keywords: dict[str, Any], told: str | None):
    problems = list(llm._unheeded(keywords, "m", "v1"))
    assert len(problems) == (told is not None)
    assert all(str(told) in problem for problem in problems)


def wanted(**asked: Any) -> llm._Wanted:
    return llm._Wanted(
        **{"hf_overrides": {}, "convert": "auto", "pooler_config": {}, "revision": None, "precision": None}
        | asked
    )


GRAPH = Graph(file="model.onnx", precision="fp16", opset=20, inputs=(), outputs=())


@pytest.mark.parametrize(
    ("asked", "keywords", "told"),
    [
        ({}, {}, None), ({"revision": "v1"}, {}, None),
        ({"revision": "v2"}, {}, "revision='v2': the artifact is of revision 'v1'"),
        ({}, {"dtype": "float16"}, None), ({}, {"dtype": "half"}, None), ({}, {"dtype": "auto"}, None),
        ({}, {"dtype": "float32"}, None),
        ({}, {"dtype": "bfloat16"}, "--precision bf16"), ({}, {"dtype": "int9"}, "--precision int9"),
        ({"precision": "fp16"}, {"dtype": "bfloat16"}, None),
        ({"precision": "int8"}, {}, "precision int8 changes the answers"),
        ({}, {"task": "embed"}, None), ({}, {"task": "embedding"}, None), ({}, {"task": "auto"}, None),
        ({}, {"task": None}, None),
        ({}, {"task": "classify"}, "task='classify': this artifact has embed, token_embed"),
        ({}, {"task": "reward"}, "task='reward'"),
        ({}, {"task": "score"}, "task='score'"), ({"convert": "classify"}, {}, "convert changes the answers"),
        ({"hf_overrides": {"x": 1}}, {},
        "hf_overrides changes the answers: export the artifact with --hf-overrides"),
        ({"pooler_config": {"pooling_type": "CLS"}}, {}, "pooler_config changes the answers"),
    ],
)  # fmt: skip
def test_keywords_that_ask_for_another_export_say_which(
    asked: dict[str, Any], keywords: dict[str, Any], told: str | None
):
    of = replace(manifest(), graphs=(GRAPH,), source=Source(checkpoint="m", revision="v1"))
    problems = list(llm._undone(wanted(**asked), keywords, of))
    assert len(problems) == (told is not None)
    assert all(str(told) in problem for problem in problems)
    assert not list(llm._undone(wanted(), {"task": "score"}, replace(of, scoring="bi-encoder")))


def test_what_is_asked_of_a_checkpoint_is_its_export_s():
    assert wanted().options(None) == []
    assert wanted().options("auto") == []
    assert (
        wanted().options("embedding") == wanted(convert="embed").options("classify") == ["--convert", "embed"]
    )
    assert wanted().options("token_embed") == ["--convert", "token_embed"]
    full = wanted(hf_overrides={"a": 1}, pooler_config={"b": 2}, revision="v", precision="int8")
    assert full.options(None) == [
        "--revision",
        "v",
        "--precision",
        "int8",
        "--hf-overrides",
        '{"a": 1}',
        "--pooler-config",
        '{"b": 2}',
    ]


def test_a_pooler_config_is_given_in_two_forms():
    assert llm._pooler(PoolerConfig(dimensions=4)) == llm._pooler({"dimensions": 4}) == {"dimensions": 4}
    assert llm._pooler(None) == llm._overrides(None) == {}
    for read in (llm._pooler, llm._overrides):
        with pytest.raises(InputError, match="found str"):
            read("x")  # pyright: ignore[reportArgumentType]
