"""Each way to read these encoders that looks right and is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.families import gte
from poolrt.exporter.files import recipe
from poolrt.exporter.heads import planning as heads
from poolrt.runtime.answers import postprocess
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.artifact.manifest import Head
from poolrt.runtime.errors import CheckpointError, UnknownArchitecture
from poolrt.runtime.inputs.items import Item

from tests.checkpoints import configure, rewrite_weights
from tests.families import TEXTS, find
from tests.families.proof import COSINE, cosines, prove


def made(name: str, tmp_path: Path, **config: Any) -> Path:
    folder = find(name)(tmp_path / name)
    if config:
        configure(folder, **config)
    return folder


# --- ModernBERT
# ------------------------------------------------------------------------------------------------------------


def test_the_window_reaches_half_of_local_attention_to_either_side(tmp_path: Path):
    """Layers 1 and 2 are local here. Beyond the sum of what all layers see nothing may change,
    within it everything may."""
    folder = made(
        "modernbert_embedder",
        tmp_path,
        global_attn_every_n_layers=100,
        num_hidden_layers=2,
        layer_types=["sliding_attention"] * 2,
    )
    rewrite_weights(folder, lambda name: None if name.startswith(("layers.2.", "layers.3.")) else name)
    proved = prove(folder)
    ids = proved.ids([TEXTS[4]])[0][:60]
    changed = [*ids[:40], ids[40] + 1, *ids[41:]]
    one, other = proved.raw("token_embed", [ids, changed])
    moved = np.flatnonzero(np.abs(one - other).max(-1) > 1e-6)
    assert (moved.min(), moved.max()) == (40 - 2 * 4, 40 + 2 * 4)  # two layers of 8 // 2


@pytest.mark.parametrize(("pooling", "row"), [("cls", 0), ("mean", None)])
def test_the_classifier_pools_as_its_config_says(pooling: str, row: int | None, tmp_path: Path):
    proved = prove(made("modernbert_reranker", tmp_path, classifier_pooling=pooling))
    assert proved.plan.heads["classify"].pool == pooling


def test_an_old_config_and_a_new_one_are_the_same_model(tmp_path: Path):
    old = prove(made("modernbert_embedder", tmp_path))
    thetas = {"full_attention": {"rope_type": "default", "rope_theta": 160000.0}}
    thetas["sliding_attention"] = {"rope_type": "default", "rope_theta": 10000.0}
    keys: dict[str, Any] = {"global_rope_theta": None, "local_rope_theta": None, "rope_parameters": thetas}
    new = prove(made("modernbert_embedder", tmp_path / "new", **keys))
    np.testing.assert_array_equal(old.raw("embed", TEXTS), new.raw("embed", TEXTS))


# --- GTE
# ------------------------------------------------------------------------------------------------------------


def test_ntk_divides_the_frequencies_besides_enlarging_the_base():
    config = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "rope_theta": 20000,
        "rope_scaling": {"type": "ntk", "factor": 8.0},
    }
    assert gte.rotary(config) == {"rope_type": "linear", "rope_theta": 160000.0, "factor": 8.0 ** (2 / 32)}


def test_forgetting_that_division_is_not_a_small_error(tmp_path: Path):
    """What the test against numpy would see: the larger base alone, on a long text."""
    right = prove(made("mgte_embedder", tmp_path)).raw("embed", TEXTS[3:])
    wrong = prove(made("mgte_embedder", tmp_path / "wrong", rope_theta=160000.0, rope_scaling=None)).raw(
        "embed", TEXTS[3:]
    )
    assert cosines(wrong, right, of="").max() < 0.999


def test_the_token_head_of_an_embedding_model_is_left_alone(tmp_path: Path):
    read = checkpoint.read(made("mgte_embedder", tmp_path), recipe=None)
    assert (read.architecture, read.kind) == ("GteNewModel", "embed")
    assert heads.plan(read).tasks == ("embed", "token_embed")


@pytest.mark.parametrize(
    "config",
    [
        {"logn_attention_scale": True},
        {"position_embedding_type": "absolute"},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    ],
    ids=["logn", "absolute", "yarn"],
)
def test_settings_of_new_impl_that_change_the_numbers_are_refused(config: dict[str, Any], tmp_path: Path):
    with pytest.raises(CheckpointError, match="not supported"):
        checkpoint.read(made("mgte_embedder", tmp_path, **config), recipe=None)


def test_another_code_base_that_calls_itself_new_is_not_taken_for_gte(tmp_path: Path):
    folder = made("gte_en", tmp_path)
    rewrite_weights(folder, lambda name: name.replace("qkv_proj", "query_key_value"))
    with pytest.raises(UnknownArchitecture):
        checkpoint.read(folder, recipe=None)


def test_remote_code_is_reported_and_not_run(tmp_path: Path):
    folder = made("mgte_embedder", tmp_path)
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    assert any("not run" in line for line in prove(folder).plan.lines)


# --- Nomic
# ------------------------------------------------------------------------------------------------------------


def test_length_ends_where_training_ended(tmp_path: Path):
    """The table of positions goes four times as far, and so does the limit of Sentence Transformers."""
    assert prove(made("nomic_v1", tmp_path)).plan.text.max_tokens == 128


@pytest.mark.parametrize("key", ["prenorm", "rotary_emb_interleaved", "parallel_block"])
def test_a_nomic_bert_of_another_build_is_refused(key: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=key):
        checkpoint.read(made("nomic_v1", tmp_path, **{key: True}), recipe=None)


def test_expert_weights_are_not_renormalised(tmp_path: Path):
    with pytest.raises(CheckpointError, match="moe_normalize_expert_weights"):
        prove(made("nomic_moe", tmp_path, moe_normalize_expert_weights=True))


def test_a_missing_expert_is_told(tmp_path: Path):
    folder = made("nomic_moe", tmp_path)
    rewrite_weights(folder, lambda name: None if name.endswith("3.mlp.experts.mlp.w2") else name)
    with pytest.raises(CheckpointError, match=r"missing encoder\.layers\.3\.mlp\.experts\.mlp\.w2"):
        prove(folder)


@pytest.mark.parametrize(
    ("experts", "top", "layers", "heads", "hidden"), [(3, 1, 3, 4, 32), (8, 3, 2, 1, 24)]
)
def test_other_sizes_of_the_mixture_equal_numpy(
    experts: int, top: int, layers: int, heads: int, hidden: int, tmp_path: Path
):
    from tests.families import nomic, plain

    folder = nomic.nomic_moe(
        tmp_path, experts=experts, top=top, layers=layers, heads=heads, hidden=hidden, seed=5
    )
    (folder / "modules.json").unlink()
    proved = prove(folder)
    known, config = plain.tensors(folder), json.loads((folder / "config.json").read_text())
    expected = [plain.nomic(known, config, ids) for ids in proved.ids(TEXTS[:3])]
    assert cosines(proved.raw("token_embed", TEXTS[:3]), expected).min() > COSINE
    assert proved.plan.heads["embed"].pool == "cls"


def test_nomic_v15_norms_before_it_cuts_and_only_then():
    found = recipe.find("nomic-ai/nomic-embed-text-v1.5")
    assert found is not None
    assert found.norm_before_cut
    head = Head(
        output="out_embed", dim=8, pool="mean", activation="l2", matryoshka=(4,), norm_before_cut=True
    )
    row = np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=np.float32)
    whole, cut = (
        postprocess.answers("embed", head, [row], [Item(ids=[0])], [PoolingParams(dimensions=width)])[0]
        for width in (None, 4)
    )
    normed = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    np.testing.assert_allclose(whole, row / np.linalg.norm(row), rtol=1e-6)
    np.testing.assert_allclose(cut, normed[:4] / np.linalg.norm(normed[:4]), rtol=1e-6)


def test_a_smaller_namesake_is_read_without_the_widths_it_does_not_have(tmp_path: Path):
    folder = find("nomic_v15")(tmp_path / "nomic-embed-text-v1.5")
    configure(folder, matryoshka_dimensions=None)
    head = heads.plan(checkpoint.read(folder)).heads["embed"]
    assert (head.matryoshka, head.norm_before_cut, head.dim) == ((64,), True, 64)


# --- ERNIE and the rest
# -----------------------------------------------------------------------------------------------------------


def test_a_task_embedding_that_is_off_is_not_added(tmp_path: Path):
    on = prove(made("ernie_task", tmp_path))
    off = prove(made("ernie_task", tmp_path / "off", use_task_id=False))
    assert cosines(on.raw("embed", TEXTS), off.raw("embed", TEXTS), of="").max() < 0.999


def test_a_classifier_without_its_head_is_refused(tmp_path: Path):
    folder = made("modernbert_reranker", tmp_path)
    rewrite_weights(folder, lambda name: None if name.startswith("classifier.") else name)
    with pytest.raises(CheckpointError, match=r"missing classifier\.weight"):
        prove(folder)


def test_a_head_behind_a_pooler_of_its_own_kind_is_run_by_its_class(tmp_path: Path):
    """MobileBERT's classifier on bare hidden states would be nonsense."""
    import transformers

    from tests.checkpoints import _bert_settings, _hf

    sizes = {
        "hidden_size": 32,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 1,
        "num_labels": 1,
    }
    _hf(tmp_path, "MobileBertForSequenceClassification", **_bert_settings(tmp_path, **sizes))
    proved = prove(tmp_path)
    assert proved.plan.tasks == ("classify",)
    model = transformers.MobileBertForSequenceClassification.from_pretrained(tmp_path).eval()
    for ids, logits in zip(proved.ids(TEXTS[2:]), proved.raw("classify", TEXTS[2:]), strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(logits, model(torch.tensor([ids])).logits[0].numpy(), atol=1e-5)
    assert prove(tmp_path, convert="embed").plan.tasks == ("embed", "token_embed")
    with pytest.raises(CheckpointError, match="pools by itself"):
        prove(tmp_path, pooler_config={"pooling_type": "MEAN"})
    configure(tmp_path, architectures=["MobileBertForSecretClassification"])
    with pytest.raises(CheckpointError, match="does not know"):
        prove(tmp_path, convert="classify")
