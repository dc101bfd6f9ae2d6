"""What is refused, in one clear line each, and what is read from a checkpoint's files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.files import weights
from poolrt.exporter.heads import planning
from poolrt.runtime import json_objects
from poolrt.runtime.errors import CheckpointError, UnknownArchitecture

from tests.checkpoints import HIDDEN, IDENTITY, configure, rewrite_weights

Paths = Callable[[str], Path]


@pytest.fixture
def copy(checkpoints: Paths, tmp_path: Path) -> Paths:
    """A tiny checkpoint that the test may break."""
    return lambda name: Path(shutil.copytree(checkpoints(name), tmp_path / name))


def refused(folder: Path | str, **asked: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        planning.plan(checkpoint.read(folder, **asked))
    message = str(caught.value)
    assert "\n" not in message
    return message


def built(folder: Path) -> Any:
    from poolrt.exporter.graph import tracing

    read = checkpoint.read(folder)
    return tracing.module(read, planning.plan(read))


# --- not a checkpoint
# ------------------------------------------------------------------------------------------------------------


def test_a_folder_without_config_says_what_it_holds(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a checkpoint: no config.json (it holds notes.txt)" in refused(tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    assert "no such folder, and not a hub id" in refused(tmp_path / "missing")


def test_a_file_is_refused_with_what_to_give_instead(checkpoints: Paths):
    assert "give the folder that holds config.json" in refused(checkpoints("bert_plain") / "config.json")


def test_a_hub_id_that_cannot_be_reached_says_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "the hub is not reachable (offline" in refused("somebody/a-model-nobody-has")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\udcff"], ids=["cut", "list", "empty", "bytes"])
def test_a_config_that_is_not_one_is_named(copy: Paths, content: str):
    folder = copy("bert_plain")
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refused(folder)


def test_a_config_without_weights_names_the_files_expected(copy: Paths):
    folder = copy("bert_plain")
    (folder / "model.safetensors").unlink()
    assert "no weights; expected one of model.safetensors, pytorch_model.bin" in refused(folder)


def test_a_revision_of_a_local_folder_is_refused(checkpoints: Paths):
    assert "chooses a hub repository's version" in refused(checkpoints("bert_plain"), revision="main")


# --- damaged weights
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 100, -1], ids=["empty", "no length", "cut header", "one byte short"])
def test_truncated_safetensors_are_refused_before_anything_is_loaded(copy: Paths, kept: int):
    folder = copy("bert_plain")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated" in refused(folder)


def lying(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A safetensors file whose index says something else; its length stays right."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    index = json.loads(raw[8 : 8 + length])
    change(index)
    written = json.dumps(index).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + raw[8 + length :])


@pytest.mark.parametrize("shape", [[1], [65], [64, 2], [32]], ids=str)
def test_an_index_that_lies_about_sizes_is_refused(copy: Paths, shape: list[int]):
    folder = copy("bert_plain")
    name = "embeddings.LayerNorm.weight"

    def change(index: dict[str, Any]) -> None:
        assert index[name]["shape"] == [64]
        index[name]["shape"] = shape

    lying(folder / "model.safetensors", change)
    told = refused(folder)
    assert name in told
    assert "do not fit their shapes" in told


def test_an_index_that_lies_about_types_is_refused(copy: Paths):
    folder = copy("bert_plain")
    lying(
        folder / "model.safetensors", lambda index: index["embeddings.LayerNorm.weight"].update(dtype="F16")
    )
    assert "do not fit their shapes" in refused(folder)


@pytest.mark.parametrize("more", [1, 4, -4])
def test_an_index_that_lies_about_the_end_is_refused(copy: Paths, more: int):
    folder = copy("bert_plain")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(more) if more > 0 else path.read_bytes()[:more])
    told = refused(folder)
    assert "truncated" in told
    assert str(path.stat().st_size) in told


def test_a_git_lfs_pointer_is_not_taken_for_weights(copy: Paths):
    folder = copy("bert_plain")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90\n"
    )
    assert "git lfs pull" in refused(folder)


def test_every_missing_shard_is_named(copy: Paths):
    folder = copy("bert_sharded")
    lost = sorted(folder.glob("model-*.safetensors"))[:2]
    for path in lost:
        path.unlink()
    message = refused(folder)
    assert all(path.name in message for path in lost)


def test_a_weight_index_cannot_name_files_outside(copy: Paths):
    folder = copy("bert_sharded")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    )
    assert "outside the folder" in refused(folder)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("proof-that-it-ran"),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "sparse_linear.pt"])
def test_a_pickle_that_would_run_code_is_refused(
    copy: Paths, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    folder = copy("bge_m3")
    (folder / name).write_bytes(pickle.dumps({"weight": Evil()}))
    assert name in refused(folder)
    assert not (tmp_path / "proof-that-it-ran").exists()


# --- architecture and heads
# -------------------------------------------------------------------------------------------------------


def test_an_unknown_architecture_names_the_closest_ones(copy: Paths):
    folder = copy("bert_plain")
    configure(folder, model_type="albertine", architectures=["BertlModel"])
    with pytest.raises(UnknownArchitecture, match=r"'BertlModel' .*closest supported: BertModel"):
        checkpoint.read(folder)


def test_an_unknown_head_names_the_closest_ones(copy: Paths):
    folder = copy("bert_plain")
    configure(folder, architectures=["BertModle"])
    assert "closest known: BertModel" in refused(folder)


def test_all_missing_tensors_of_a_head_are_named_at_once(copy: Paths):
    folder = copy("bert_classifier")
    rewrite_weights(folder, lambda name: None if name.startswith(("classifier", "bert.pooler")) else name)
    message = refused(folder)
    assert all(
        f"missing {name}" in message
        for name in ("pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")
    )


def test_a_classifier_name_on_a_bare_encoder_is_refused(copy: Paths):
    folder = copy("bert_plain")
    configure(folder, architectures=["BertForSequenceClassification"])
    assert "missing classifier.weight" in refused(folder)


def test_all_missing_tensors_of_a_backbone_are_named_at_once(copy: Paths):
    folder = copy("bert_plain")
    lost = ("encoder.layer.0.output.dense.weight", "encoder.layer.1.intermediate.dense.bias")
    rewrite_weights(folder, lambda name: None if name in lost else name)
    with pytest.raises(CheckpointError) as caught:
        built(folder)
    assert all(name in str(caught.value) for name in lost)


def test_tensors_without_a_place_are_not_left_out_silently(copy: Paths):
    import torch

    folder = copy("bert_plain")
    rewrite_weights(
        folder, lambda name: name, add={"encoder.layer.0.attention.self.rotary.weight": torch.zeros(2)}
    )
    with pytest.raises(
        CheckpointError, match=r"no place for encoder\.layer\.0\.attention\.self\.rotary\.weight"
    ):
        built(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 7},
        {"hidden_act": "sorcery"},
        {"vocab_size": 3},
        {"layer_norm_eps": [1]},
    ],
    ids=["text", "heads", "activation", "vocabulary", "list"],
)
def test_settings_that_make_no_model_are_one_line(copy: Paths, settings: dict[str, Any]):
    folder = copy("bert_plain")
    configure(folder, **settings)
    with pytest.raises(CheckpointError) as caught:
        built(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "max_position_embeddings"])
def test_a_key_that_config_json_lacks_is_named(copy: Paths, key: str):
    folder = copy("bert_plain")
    configure(folder, **{key: None})
    assert f"config.json has no usable {key}" in refused(folder)


def test_label_names_and_rows_must_agree(copy: Paths):
    folder = copy("bert_classifier")
    configure(folder, id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    assert "names 2 labels, the classifier has 3 rows" in refused(folder)


def test_a_head_nobody_knows_says_how_to_go_on(copy: Paths):
    folder = copy("bert_plain")
    configure(folder, architectures=["BertForQuestionAnswering"])
    assert "--convert embed" in refused(folder)
    plan = planning.plan(checkpoint.read(folder, convert="embed"))
    assert plan.tasks == ("embed", "token_embed")


def test_a_classifier_can_be_made_to_embed(checkpoints: Paths):
    plan = planning.plan(checkpoint.read(checkpoints("bert_classifier"), convert="embed"))
    assert plan.heads["embed"].dim == HIDDEN
    assert plan.heads["embed"].pool == "cls"


def test_bge_m3_by_name_alone_needs_its_files(checkpoints: Paths):
    message = refused(checkpoints("xlmr_embedder"), hf_overrides={"architectures": ["BgeM3EmbeddingModel"]})
    assert "sparse_linear.pt" in message


def test_remote_code_is_reported_and_never_followed(copy: Paths):
    folder = copy("bert_plain")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    configure(folder, auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
    read = checkpoint.read(folder)
    assert any("remote code: not run" in line for line in read.lines)
    built(folder)


def test_the_generate_runner_is_refused(checkpoints: Paths):
    assert "pooling models only" in refused(checkpoints("bert_plain"), runner="generate")


def test_a_module_nobody_knows_is_named(copy: Paths):
    folder = copy("minilm_like")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"idx": 3, "name": "3", "path": "3_X", "type": "my.package.Secret"}])
    )
    assert "my.package.Secret" in refused(folder)


def test_a_module_folder_that_is_missing_is_named(copy: Paths):
    folder = copy("bert_dense")
    shutil.rmtree(folder / "3_Dense")
    assert "3_Dense" in refused(folder)


# --- what was asked for
# ------------------------------------------------------------------------------------------------------------


def test_overrides_are_merged_into_nested_objects():
    base = {"a": 1, "rope": {"type": "x", "factor": 2}}
    assert json_objects.merged(base, {"rope": {"factor": 8}, "b": 3}) == {
        "a": 1,
        "rope": {"type": "x", "factor": 8},
        "b": 3,
    }


def test_overrides_reach_the_plan(checkpoints: Paths):
    read = checkpoint.read(checkpoints("bert_plain"), hf_overrides={"matryoshka_dimensions": [32, 16]})
    assert planning.plan(read).heads["embed"].matryoshka == (16, 32)
    assert read.overrides == {"hf_overrides": {"matryoshka_dimensions": [32, 16]}}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"normalize": True}, "use `use_activation`"),
        ({"pooling_type": "CLS", "seq_pooling_type": "MEAN"}, "cannot be combined"),
        ({"pooling_type": "FIRST"}, "'FIRST' is not one of"),
        ({"logit_sigma": 0.0}, "cannot be 0"),
        ({"dimensions": HIDDEN + 1}, "wider than the model"),
        ({"task": "classify"}, "not one of this model's"),
        ({"colour": "red"}, "unknown key"),
    ],
    ids=["normalize", "twice", "unknown pooling", "sigma", "too wide", "task", "unknown"],
)
def test_a_pooler_config_that_makes_no_sense_is_refused(checkpoints: Paths, asked: dict[str, Any], told: str):
    assert told in refused(checkpoints("bert_plain"), pooler_config=asked)


def test_a_pooler_config_wins_over_the_files(checkpoints: Paths):
    asked = {"pooling_type": "LAST", "use_activation": False, "task": "token_embed"}
    plan = planning.plan(checkpoint.read(checkpoints("minilm_like"), pooler_config=asked))
    assert (plan.heads["embed"].pool, plan.heads["embed"].activation, plan.tasks[0]) == (
        "last",
        "identity",
        "token_embed",
    )
    assert plan.scoring == "late-interaction"


def test_every_guess_says_why(checkpoints: Paths):
    plan = planning.plan(checkpoint.read(checkpoints("minilm_like")))
    assert {"architecture", "kind", "pooling", "normalised", "max tokens", "tasks"} <= {
        guess.what for guess in plan.guesses
    }
    assert all(guess.why for guess in plan.guesses)


@pytest.mark.parametrize(
    ("labels", "settings", "expected"),
    [
        (1, {}, "sigmoid"),
        (3, {}, "softmax"),
        (1, {"problem_type": "regression"}, "identity"),
        (3, {"problem_type": "regression"}, "identity"),
        (3, {"problem_type": "single_label_classification"}, "softmax"),
        (1, {"problem_type": "single_label_classification"}, "sigmoid"),
        (3, {"problem_type": "multi_label_classification"}, "sigmoid"),
        (1, {"sbert_ce_default_activation_function": IDENTITY}, "identity"),
        (3, {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "softmax"),
        (1, {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "tanh"),
        (
            1,
            {
                "sentence_transformers": {"activation_fn": IDENTITY},
                "problem_type": "multi_label_classification",
            },
            "sigmoid",
        ),
        (
            1,
            {
                "sentence_transformers": {"activation_fn": IDENTITY},
                "sbert_ce_default_activation_function": "x",
            },
            "identity",
        ),
    ],
)
def test_the_activation_follows_vllms_order(
    copy: Paths, labels: int, settings: dict[str, Any], expected: str
):
    folder = copy("roberta_cross_encoder" if labels == 1 else "bert_classifier")
    configure(folder, **settings)
    assert planning.plan(checkpoint.read(folder)).heads["classify"].activation == expected


def test_an_activation_from_elsewhere_is_refused(copy: Paths):
    folder = copy("bert_cross_encoder")
    configure(folder, sbert_ce_default_activation_function="os.system")
    assert "'os.system'" in refused(folder)


# --- text
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm_like", 64),
        ("bert_dense", 64),
        ("bert_plain", 128),
        ("roberta_cross_encoder", 128),
        ("bge_m3", 128),
    ],
    ids=["old files", "new files", "tokenizer", "two rows less", "bge-m3"],
)
def test_the_longest_item_is_the_lowest_limit(checkpoints: Paths, name: str, expected: int):
    assert planning.plan(checkpoint.read(checkpoints(name))).text.max_tokens == expected


def test_colbert_takes_its_preparation_from_artifact_metadata(checkpoints: Paths):
    roles = planning.plan(checkpoint.read(checkpoints("colbert"))).text.roles
    assert (roles["query"].marker_id, roles["document"].marker_id) == (3, 4)
    assert (roles["query"].max_tokens, roles["document"].max_tokens) == (16, 48)
    assert (roles["query"].expand_id, roles["query"].attend_expansion) == (8, False)
    assert len(roles["document"].skip_ids) == 32
    assert roles["query"].skip_ids == ()


def test_colbert_is_known_by_its_projection_alone(copy: Paths):
    folder = copy("colbert")
    (folder / "artifact.metadata").unlink()
    configure(folder, architectures=["BertModel"])
    read = checkpoint.read(folder)
    assert (read.architecture, read.kind) == ("HF_ColBERT", "colbert")


def test_roberta_pads_with_its_own_id(checkpoints: Paths):
    assert planning.plan(checkpoint.read(checkpoints("roberta_embedder"))).text.pad_id == 1


def test_prompts_are_kept(checkpoints: Paths):
    text = planning.plan(checkpoint.read(checkpoints("xlmr_embedder"))).text
    assert text.prompts == {"query": "query: ", "passage": "passage: "}
    # Each side as encode_query and encode_document prepare it: `passage` is no name that
    # the library looks for.
    assert {side: role.prefix for side, role in text.roles.items()} == {"query": "query: ", "document": ""}


def test_a_last_token_model_knows_its_end(checkpoints: Paths):
    assert planning.plan(checkpoint.read(checkpoints("bert_lasttoken"))).text.ends_with == 7


def test_old_names_of_norms_are_todays(checkpoints: Paths):
    opened = weights.open_folder(checkpoints("bert_vocab_txt"))
    assert "bert.embeddings.LayerNorm.weight" in opened
    assert not any(name.endswith(("gamma", "beta")) for name in opened)
