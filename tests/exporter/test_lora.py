"""Merged adapters against peft, which runs them unmerged; and what cannot be merged is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint, cli, pipeline
from poolrt.exporter.base import large
from poolrt.exporter.heads import planning
from poolrt.runtime import PoolingParams, load
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.errors import EXIT_INPUT, CheckpointError, InputError
from safetensors.torch import load_file, save_file

from tests import checkpoints as tiny
from tests.adapters import adapted, reference
from tests.families import decoders, splade
from tests.families.proof import COSINE, Proved, cosines, differences, prove

TEXTS = ["the red planet", "a", "which city is the capital of france ?", "venus is known as " * 5]
# fp32 against fp32, of the largest hidden value: W·x + B·(A·x) against (W + B·A)·x, two orders of the same
# sums; worst seen 1.8e-6.
SAME = 1e-5
SCORE = 5e-6  # of probabilities, likewise; worst seen 5e-7

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {r"layer.1.attention.self.query": 2}, "alpha_pattern": {"value": 11}},
    "regex": {"target_modules": r".*layer\.1\..*dense"},
    "all linear layers": {"target_modules": "all-linear"},
    "all biases": {"bias": "all"},
    "biases of adapted layers": {"bias": "lora_only"},
    "bias of B": {"lora_bias": True},
    "table": {"target_modules": ["query", "word_embeddings"]},
    "dora": {"use_dora": True, "target_modules": ["query", "dense"]},
    "dora of a table": {"use_dora": True, "target_modules": ["word_embeddings", "key"]},
    "whole modules": {"modules_to_save": ["position_embeddings", "LayerNorm"]},
    "orthogonal start": {"init_lora_weights": "orthogonal"},
    "whole modules and all biases": {"modules_to_save": ["LayerNorm"], "bias": "all"},
    "a whole layer and all biases": {
        "target_modules": ["layer.0.output.dense"],
        "modules_to_save": ["layer.1"],
        "bias": "all",
    },
    "rows of a table": {"trainable_token_indices": [3, 9, 50], "bias": "all"},
    "rows of a table by name": {"trainable_token_indices": {"position_embeddings": [0, 1, 2]}},
    "chosen layers": {"layers_to_transform": [1], "exclude_modules": r".*\.value"},
    "patterns anchored": {
        "rank_pattern": {r"^encoder.layer.1.attention.self.query": 2},
        "lora_bias": True,
        "bias": "lora_only",
    },
}


def hidden(model: Any, proved: Proved, texts: list[str] = TEXTS) -> list[np.ndarray]:
    """Last hidden states [tokens, hidden] of a transformers or peft model, one text at a time."""
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([proved.item(text).ids])
            found.append(
                model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
            )
    return found


def same(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=SAME * float(np.abs(other).max()))


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_an_encoder_answers_as_in_peft(
    checkpoints: Callable[[str], Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter", **settings)
    proved = prove(base, adapter=adapter)
    expected = hidden(reference(base, adapter), proved)
    same(proved.raw("token_embed", TEXTS), expected)
    plain = prove(base).raw("token_embed", TEXTS)
    assert all(float(np.abs(one - other).max()) > 0.05 for one, other in zip(plain, expected, strict=True)), (
        "the adapter changes nothing"
    )


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=str)
def test_a_layer_is_read_as_it_is_stored_whatever_fan_in_fan_out_says(
    checkpoints: Callable[[str], Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """PEFT corrects the setting by the layer's class when it loads an adapter; a square
    matrix does not show it."""
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter", **settings)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": True}))
    proved = prove(base, adapter=adapter)
    same(proved.raw("token_embed", TEXTS), hidden(reference(base, adapter), proved))


# What was adapted of a SentenceTransformer, and what the names of its tensors start with then.
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "all of it": lambda model: model,
    "its first module": lambda model: model[0],
}


@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("part", WRAPPERS.values(), ids=WRAPPERS)
def test_an_adapter_of_a_sentence_transformer_answers_as_there(
    checkpoints: Callable[[str], Path], tmp_path: Path, part: Callable[[Any], Any], bias: str
) -> None:
    import sentence_transformers

    base = checkpoints("minilm_like")
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    adapter = adapted(base, tmp_path / "adapter", base=part(model), bias=bias, modules_to_save=["LayerNorm"])
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(
        np.stack(prove(base, adapter=adapter).answers("embed", TEXTS)), expected, rtol=0, atol=2e-6
    )


def test_an_adapter_of_a_cross_encoder_answers_as_there(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    """With its head trained as a whole, and every bias."""
    import sentence_transformers

    base = checkpoints("bert_cross_encoder")
    model = sentence_transformers.CrossEncoder(str(base), device="cpu")
    adapter = adapted(base, tmp_path / "adapter", base=model[0], bias="all", modules_to_save=["classifier"])
    pairs = [("which planet is red ?", text) for text in TEXTS]
    expected = model.predict(pairs)
    found = np.concatenate(prove(base, adapter=adapter).answers("classify", pairs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "model.",
        "auto_model.",
        "0.auto_model.",
        "module.base_model.model.",
        "base_model.model.auto_model.",
    ],
)
def test_names_may_start_as_any_wrapper_left_them(
    checkpoints: Callable[[str], Path], tmp_path: Path, prefix: str
) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    expected = prove(base, adapter=adapter).raw("embed", TEXTS)
    path = adapter / "adapter_model.safetensors"
    save_file(
        {prefix + name.removeprefix("base_model.model."): tensor for name, tensor in load_file(path).items()},
        path,
    )
    same(prove(base, adapter=adapter).raw("embed", TEXTS), expected)


def test_trained_rows_reach_a_tied_output_too(tmp_path: Path) -> None:
    """PEFT ties them to the decoder of a masked language model; adapted tables it does not tie (below)."""
    base = splade.splade_bert(tmp_path / "base")
    adapter = adapted(
        base, tmp_path / "adapter", kind="BertForMaskedLM", bias="all", trainable_token_indices=[9, 40, 50]
    )
    proved = prove(base, adapter=adapter)
    # Merged: beside the weights, peft 0.21 leaves the bias of a tied decoder out.
    model = reference(base, adapter, kind="BertForMaskedLM").merge_and_unload()
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            logits = model(input_ids=torch.tensor([proved.item(text).ids])).logits
            expected.append(torch.log1p(logits.relu()).amax(1)[0].numpy())
    same(proved.raw("embed", TEXTS), expected)


def test_a_model_with_turned_weights_answers_as_in_peft(tmp_path: Path) -> None:
    """GPT-2's layers hold [in, out], which a square matrix does not show."""
    folder = tmp_path / "gpt2"
    settings: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 300}
    tiny._hf(folder, "GPT2Model", **settings)
    tiny._byte_bpe(folder)
    adapter = adapted(
        folder,
        tmp_path / "adapter",
        kind="GPT2Model",
        target_modules=["c_attn", "c_proj"],
        fan_in_fan_out=True,
    )
    proved = prove(folder, adapter=adapter)
    same(proved.raw("token_embed", TEXTS), hidden(reference(folder, adapter, kind="GPT2Model"), proved))


@pytest.mark.parametrize(
    "kind", ["Qwen3Model", "Qwen3ForCausalLM"], ids=["bare names", "names with a prefix"]
)
def test_a_decoder_embedder_answers_as_in_peft(tmp_path: Path, kind: str) -> None:
    """Qwen3-Embedding's layout, stored without `model.`; an adapter may have been trained on either class."""
    base = decoders.qwen3_embedding(tmp_path / "qwen3")
    adapter = adapted(base, tmp_path / "adapter", kind=kind, target_modules="all-linear", use_rslora=True)
    proved = prove(base, tmp_path / "out", adapter=adapter)
    model = reference(base, adapter, kind=kind)
    expected = hidden(model if kind == "Qwen3Model" else model.get_base_model().model, proved)
    assert cosines(proved.answers("embed", TEXTS), [one[-1] for one in expected], of="").min() > COSINE
    same(proved.raw("token_embed", TEXTS), expected)


@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("base_name", ["bert_plain", "bert_vocab_txt", "bert_classifier"])
def test_a_classifier_trained_with_the_adapter_comes_along(
    checkpoints: Callable[[str], Path], tmp_path: Path, base_name: str, bias: str
) -> None:
    """Three classes on an encoder, on a masked language model in a pickle, and in the place of another
    classifier's. With every bias, PEFT's file holds that of the classifier before training as well."""
    import transformers

    base = checkpoints(base_name)
    count = 4 if base_name == "bert_classifier" else 3
    more = {"num_labels": count, "ignore_mismatched_sizes": True}
    kind = "BertForSequenceClassification"
    whole = transformers.BertForSequenceClassification.from_pretrained(base, dtype=torch.float32, **more)
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["key", "dense"], "bias": bias}
    adapter = adapted(base, tmp_path / "adapter", base=whole, **settings)
    proved = prove(base, adapter=adapter)
    assert proved.plan.tasks[0] == "classify"
    assert proved.plan.heads["classify"].labels == tuple(f"LABEL_{index}" for index in range(count))
    model = reference(base, adapter, kind=kind, **more)
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor([proved.item(text).ids])
            expected.append(
                model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].softmax(-1).numpy()
            )
    assert differences(proved.answers("classify", TEXTS), expected) < SCORE


def test_an_embedder_may_leave_the_trained_classifier_out(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter", kind="BertForSequenceClassification", task_type="SEQ_CLS")
    assert prove(base, adapter=adapter, convert="embed").plan.tasks[0] == "embed"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"task_type": None}))
    with pytest.raises(
        CheckpointError,
        match=r"does not use: classifier\.bias, classifier\.weight; " r".*--convert classify",
    ):
        prove(base, adapter=adapter)


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"modules_to_save": ["q_norm", "embed_tokens"]}], ids=str
)
def test_a_streamed_model_is_merged_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """bf16 weights in several files, the adapter in float32: nothing is rounded to bf16 on the way."""
    base = decoders.qwen3_embedding_prefixed(tmp_path / "qwen3")
    adapter = adapted(
        base,
        tmp_path / "adapter",
        kind="Qwen3ForCausalLM",
        target_modules=["q_proj", "down_proj"],
        **settings,
    )
    monkeypatch.setenv(large.SETTING, "0")
    pipeline.export(base, lora=adapter, name="streamed", out=tmp_path, recipe=None)
    assert (tmp_path / "streamed" / "model.data").is_file(), "not streamed"
    proved = prove(base, adapter=adapter)
    model = reference(base, adapter, kind="Qwen3ForCausalLM").get_base_model().model
    with load(tmp_path / "streamed") as opened:
        found = opened.encode(TEXTS, PoolingParams(use_activation=False), pooling_task="token_embed").arrays
    same(found, hidden(model, proved))


# --- what an export leaves
# -----------------------------------------------------------------------------------------------------------


def test_an_export_records_its_adapter_and_is_verified_with_it(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    base = checkpoints("minilm_like")
    adapter = adapted(base, tmp_path / "sports", rank_pattern={"query": 2})
    made = pipeline.export(base, lora=adapter, out=tmp_path)
    assert made.name == f"{base.name}-sports"
    manifest = read(tmp_path / made.name).manifest
    known = manifest.source.adapter
    assert known is not None
    assert (known.name, known.rank) == ("sports", 4)
    assert set(known.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert set(manifest.source.weights) == {"model.safetensors"}, "the checkpoint's own files only"
    pipeline.verified(tmp_path / made.name, against=base, lora=adapter)
    with pytest.raises(InputError, match="sports merged into it: give it with --lora"):
        pipeline.verified(tmp_path / made.name, against=base)
    other = adapted(base, tmp_path / "other", seed=1)
    with pytest.raises(
        CheckpointError, match=r"not the adapter that was merged into this " r"artifact \(sports\)"
    ):
        pipeline.verified(tmp_path / made.name, against=base, lora=other)


def test_files_that_sentence_transformers_saved_with_the_adapter_win(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    """It saves an adapted model as modules.json and an adapter: pooling, prompts and Dense layers are
    there, not with the base."""
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    plain = prove(base, adapter=adapter)
    (adapter / "tokenizer_config.json").write_text((base / "tokenizer_config.json").read_text())
    tiny.sentence_transformers_files(
        adapter, pooling="mean", dense=[(16, tiny.IDENTITY)], prompts={"query": "q: "}
    )
    proved = prove(base, adapter=adapter)
    assert proved.plan.text.prompts == {"query": "q: "}
    head = proved.plan.heads["embed"]
    assert (head.pool, head.dim, plain.plan.heads["embed"].pool) == ("mean", 16, "cls")
    dense = load_file(adapter / "2_Dense" / "model.safetensors")
    expected = [
        one.mean(0) @ dense["linear.weight"].numpy().T + dense["linear.bias"].numpy()
        for one in plain.raw("token_embed", TEXTS)
    ]
    same(proved.raw("embed", TEXTS), expected)
    pipeline.export(base, lora=adapter, name="adapted", out=tmp_path, recipe=None)
    source = read(tmp_path / "adapted").manifest.source
    assert source.adapter is not None
    assert set(source.adapter.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "2_Dense/model.safetensors",
    }
    assert set(source.weights) == {"model.safetensors"}


def test_an_old_adapter_in_a_pickle_is_read(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    expected = prove(base, adapter=adapter).raw("embed", TEXTS)
    safe = adapter / "adapter_model.safetensors"
    torch.save(load_file(safe), adapter / "adapter_model.bin")
    safe.unlink()
    same(prove(base, adapter=adapter).raw("embed", TEXTS), expected)


# --- refusals
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3, expected LORA"),
        ({"alora_invocation_tokens": [5], "target_parameters": ["w"]},
        "alora_invocation_tokens is not .*; target_parameters is not"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4' changed the checkpoint's own weights"),
        ({"r": 0, "lora_alpha": "x"},
        "r is 0, expected a count above 0; lora_alpha is 'x', expected a number above 0"),
        ({"r": 4.0, "lora_alpha": float("nan")}, "r is 4.0, .*; lora_alpha is nan"),
        ({"rank_pattern": {"(": 1}, "alpha_pattern": {"a": "b"}},
        "rank_pattern is .*; alpha_pattern is {'a': 'b'}, expected a number"),
        ({"modules_to_save": "classifier"}, "modules_to_save is 'classifier', expected names"),
        ({"lora_bias": True, "use_dora": True}, "lora_bias together with use_dora"),
        ({"r": 8}, r"query\.lora_A\.weight has shape \[4, 64\], expected \[8, 64\]; .*value\.lora_B"),
        ({"use_dora": True}, "use_dora and lora_magnitude_vector do not go together"),
        ({"trainable_token_indices": "all"}, "trainable_token_indices is 'all', expected token ids"),
    ],
    ids=[
        "another method", "parts of it", "pissa", "numbers", "other numbers", "patterns", "one name",
        "two variants", "another rank",
        "dora without magnitude", "rows",
    ],
)  # fmt: skip
def test_settings_that_do_not_merge_are_refused(
    checkpoints: Callable[[str], Path], tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(CheckpointError, match=told):
        checkpoint.read(base, adapter=adapter, recipe=None)


def test_every_tensor_that_does_not_fit_is_named(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = "base_model.model.encoder.layer.0.attention.self.query"
    del tensors[f"{first}.lora_B.weight"]
    tensors["base_model.model.encoder.layer.7.attention.self.query.lora_A.weight"] = torch.zeros(4, 64)
    tensors["base_model.model.encoder.layer.7.attention.self.query.lora_B.weight"] = torch.zeros(64, 4)
    tensors["base_model.model.encoder.layer.0.attention.self.value.lora_B.weight"] = torch.zeros(48, 4)
    tensors["base_model.model.prompt.weight"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as refused:
        checkpoint.read(base, adapter=adapter, recipe=None)
    told = str(refused.value)
    assert all(
        part in told
        for part in (
            "layer.0.attention.self.query has only one of lora_A and lora_B",
            "layer.7.attention.self.query.weight has no place",
            "value.lora_B.weight has shape [48, 4], expected [64, 4]", "prompt.weight has no place",
            f"trained on {base}",
        )
    ), told  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["held", "streamed"])
def test_numbers_that_are_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    base = decoders.qwen3_embedding(tmp_path / "qwen3")
    adapter = adapted(base, tmp_path / "adapter", kind="Qwen3Model", target_modules=["q_proj"])
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, path)
    monkeypatch.setenv(large.SETTING, "0" if streamed else str(10**15))
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.self_attn\.q_proj\.weight holds numbers that " r"are not finite"
    ):
        pipeline.export(base, lora=adapter, name="broken", out=tmp_path / "out", recipe=None)
    assert not list((tmp_path / "out").iterdir())


def test_an_adapter_of_another_base_is_refused(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoints("bert_plain")
    adapter = adapted(base, tmp_path / "adapter")
    with pytest.raises(
        CheckpointError,
        match=r"(encoder\.layer\.\d\.attention\.self\.\w+\.weight has no place in the checkpoint; ){4}it "
        r"was trained on",
    ):
        checkpoint.read(decoders.qwen3_embedding(tmp_path / "qwen3"), adapter=adapter, recipe=None)


def test_a_head_that_shares_the_adapted_table_is_refused(tmp_path: Path) -> None:
    """A yes/no reranker with tied embeddings: peft adapts the look-up alone, and the
    output keeps the old table."""
    base = decoders.qwen3_reranker(tmp_path / "qwen3")
    adapter = adapted(base, tmp_path / "adapter", kind="Qwen3Model", target_modules=["embed_tokens"])
    asked = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    found = checkpoint.read(base, adapter=adapter, hf_overrides=asked, recipe=None)
    with pytest.raises(CheckpointError, match="which the head shares"):
        planning.plan(found)


@pytest.mark.parametrize(
    ("swap", "told"),
    [
        (
            lambda base, adapter: (str(adapter), None),
            (r"a LoRA adapter, not a checkpoint; .*poolrt " r"export .* --lora"),
        ),
        (lambda base, adapter: (str(base), str(base)), "not a LoRA adapter: no adapter_config.json"),
        (lambda base, adapter: (str(base), "nowhere/at/all"), "no such folder"),
    ],
    ids=["an adapter alone", "a checkpoint as adapter", "nothing"],
)
def test_wrong_input_costs_one_line(
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    swap: Any,
    told: str,
) -> None:
    source, adapter = swap(
        checkpoints("bert_plain"), adapted(checkpoints("bert_plain"), tmp_path / "adapter")
    )
    arguments = [source, "--out", str(tmp_path / "out"), *([] if adapter is None else ["--lora", adapter])]
    assert cli.export(arguments) == EXIT_INPUT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("poolrt export: ")
    assert re.search(told, last), last
