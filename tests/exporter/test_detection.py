"""What kind of model a folder holds, by name, files and settings: which of them decides."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.exporter import detection, sentence_files
from poolrt.exporter.detection import detect
from poolrt.runtime.errors import CheckpointError


class Weights(dict[str, tuple[int, ...]]):
    @property
    def shapes(self) -> Weights:
        return self


def found(
    folder: Path, name: str | None = "BertModel", *, config: dict[str, Any] | None = None, family: dict[str, Any] | None = None,
    weights: dict[str, tuple[int, ...]] | None = None, sentence: dict[str, Any] | None = None, convert: Any = "auto",
) -> detection.Detected:  # fmt: skip
    facts = {"names": ("BertModel",), "model_types": ("bert",), "prefixes": ("bert.", "model."), "projection": (), "listwise": None,
             "rewards": ()} | (family or {})  # fmt: skip
    settings = {"model_type": "bert", "hidden_size": 8} | ({} if name is None else {"architectures": [name]}) | (config or {})
    files = None if sentence is None else {"settings": {}, "kind": "", "modules": (), "chain": (), "answers": None} | sentence
    given: tuple[Any, Any, Any] = SimpleNamespace(**facts), Weights(weights or {}), None if files is None else SimpleNamespace(**files)
    return detect(folder, settings, *given, convert)


def kind(folder: Path, *arguments: Any, **facts: Any) -> tuple[str, str]:
    detected = found(folder, *arguments, **facts)
    return detected.architecture, detected.kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BertModel", "embed"), ("BertForSequenceClassification", "classify"), ("BertForTokenClassification", "token_classify"),
        ("BertForMaskedLM", "embed"), ("LlamaForCausalLM", "embed"), ("GPT2LMHeadModel", "embed"), ("XForTextEncoding", "embed"),
        ("XEmbeddingModel", "embed"), ("XForRewardModeling", "embed"), ("XClassificationModel", "classify"),
        ("BertForTextClassification", "classify"),
    ],
)  # fmt: skip
def test_a_name_tells_the_kind_by_its_end(tmp_path: Path, name: str, expected: str):
    detected = found(tmp_path, name)
    assert (detected.architecture, detected.kind) == (name, expected)
    assert detected.guesses[0].what == "architecture"
    assert detected.guesses[-1].value == detection.WORDS[detected.kind]


def test_a_config_without_a_class_is_the_familys_backbone(tmp_path: Path):
    detected = found(tmp_path, None)
    assert (detected.architecture, detected.kind) == ("BertModel", "embed")
    assert detected.guesses[0].why == "model_type 'bert'; config.json names no class"
    assert found(tmp_path).guesses[0].why == "config.json, architectures"
    assert found(tmp_path, "Bare", family={"names": ("Bare",)}).kind == "embed"


def test_a_head_that_nobody_knows_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="BertForQuestionAnswering has a head that poolrt does not know"):
        found(tmp_path, "BertForQuestionAnswering")


@pytest.mark.parametrize(("convert", "expected"), [("embed", "embed"), ("classify", "classify"), ("reward", "embed"), ("none", "classify")])
def test_what_is_asked_for_wins_over_a_name(tmp_path: Path, convert: str, expected: str):
    detected = found(tmp_path, "BertForSequenceClassification", convert=convert)
    assert detected.kind == expected
    told = f"asked for by --convert {convert}" if convert != "none" else "from the architecture's name and files"
    assert detected.guesses[-1].why == told


def test_what_is_asked_for_does_not_win_over_files_that_tell(tmp_path: Path):
    detected = found(tmp_path, "HF_ColBERT", convert="embed")
    assert detected.kind == "colbert"
    assert detected.guesses[-1].why == "from the architecture's name and files"


def test_a_backbone_of_another_name_is_told(tmp_path: Path):
    assert [guess.what for guess in found(tmp_path, "OtherModel", config={"model_type": "other"}).guesses] == [
        "architecture",
        "backbone",
        "kind",
    ]
    assert [guess.what for guess in found(tmp_path, "OtherModel").guesses] == ["architecture", "kind"]
    assert [guess.what for guess in found(tmp_path, "BertModel", config={"model_type": "other"}).guesses] == ["architecture", "kind"]


# --- files and settings that tell -------------------------------------------------------------------------------------------------


def test_bge_m3_is_known_by_both_of_its_files(tmp_path: Path):
    (tmp_path / "sparse_linear.pt").touch()
    assert kind(tmp_path, "XLMRobertaModel")[1] == "embed"
    (tmp_path / "colbert_linear.pt").touch()
    assert kind(tmp_path, "XLMRobertaModel") == ("BgeM3EmbeddingModel", "bge-m3")


def test_bge_m3_is_known_by_its_name(tmp_path: Path):
    assert kind(tmp_path, "BgeM3EmbeddingModel") == ("BgeM3EmbeddingModel", "bge-m3")


@pytest.mark.parametrize(
    ("model_type", "late"),
    [("bert", "HF_ColBERT"), ("modernbert", "ColBERTModernBertModel"), ("lfm2", "ColBERTLfm2Model"), (None, "HF_ColBERT")],
)
def test_colbert_is_known_by_its_metadata_and_named_by_its_family(tmp_path: Path, model_type: str | None, late: str):
    (tmp_path / "artifact.metadata").touch()
    assert kind(tmp_path, config={"model_type": model_type}) == (late, "colbert")


@pytest.mark.parametrize("name", ["HF_ColBERT", "ColBERTModernBertModel", "ColBERTJinaRobertaModel"])
def test_colbert_is_known_by_its_name(tmp_path: Path, name: str):
    assert kind(tmp_path, name) == (name, "colbert")


@pytest.mark.parametrize(
    ("weights", "family", "expected"),
    [
        ({"linear.weight": (4, 8), "bert.x": (1,)}, {}, "colbert"), ({"linear.weight": (4, 8), "model.x": (1,)}, {}, "colbert"),
        ({"linear.weight": (4, 9), "bert.x": (1,)}, {}, "embed"), ({"linear.weight": (8,), "bert.x": (1,)}, {}, "embed"),
        ({"linear.weight": (4, 8), "x": (1,)}, {}, "embed"), ({"bert.x": (1,)}, {}, "embed"),
        ({"linear.weight": (4, 8), "bert.x": (1,)}, {"projection": ("linear",)}, "embed"),
    ],
    ids=str,
)  # fmt: skip
def test_a_projection_beside_the_backbone_is_colberts(tmp_path: Path, weights: Any, family: dict[str, Any], expected: str):
    assert kind(tmp_path, weights=weights, family=family)[1] == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ({"kind": "ColBERT"}, ("HF_ColBERT", "colbert")), ({"kind": "MultiVectorEncoder"}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim", "query_length": 32}}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim", "document_length": 32}}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim"}}, ("BertModel", "embed")),
        ({"settings": {"similarity_fn_name": "cosine", "query_length": 32}}, ("BertModel", "embed")),
        ({"modules": ("MLMTransformer", "SpladePooling"), "kind": "SparseEncoder"}, ("BertSpladeSparseEmbeddingModel", "splade")),
        ({"modules": ("Transformer", "Pooling", "SparseAutoEncoder"), "kind": "SparseEncoder"}, ("BertModel", "embed")),
        ({"answers": object()}, ("BertModel", "classify")), ({"kind": "SentenceTransformer"}, ("BertModel", "embed")),
    ],
    ids=str,
)  # fmt: skip
def test_sentence_transformers_files_tell_the_kind(tmp_path: Path, sentence: dict[str, Any], expected: tuple[str, str]):
    assert kind(tmp_path, sentence=sentence) == expected


def test_a_sparse_encoder_of_another_pooling_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="a SparseEncoder of Transformer → Pooling; expected a SpladePooling or SparseAutoEncoder"):
        found(tmp_path, sentence={"kind": "SparseEncoder", "modules": ("Transformer", "Pooling")})


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("BertModel", {"family": {"listwise": object()}}, "listwise"), ("BertRM", {"family": {"rewards": ("BertRM",)}}, "reward"),
        ("LlamaForCausalLM", {"config": {"classifier_from_token": ["a"]}}, "classify"),
        ("LlamaForCausalLM", {"config": {"classifier_from_token": []}}, "embed"),
        ("BertSpladeSparseEmbeddingModel", {}, "splade"), ("OtherSpladeSparseEmbeddingModel", {}, "splade"),
    ],
)  # fmt: skip
def test_special_heads_are_known_by_name_or_setting(tmp_path: Path, name: str, facts: dict[str, Any], expected: str):
    assert kind(tmp_path, name, **facts) == (name, expected)


def test_a_guess_reads_as_one_line():
    assert str(detection.Guess("kind", "x", "because")) == "kind: x (because)"
    assert str(detection.Guess("kind", "x", "because", "--convert")) == "kind: x (because; to change: --convert)"


# --- Sentence Transformers' files -------------------------------------------------------------------------------------------------


def modules(folder: Path, *kinds: str, package: str = "sentence_transformers.models", **configs: Any) -> None:
    """modules.json and a config for each module; the Transformer stands in the folder itself."""
    entries = [
        {"idx": place, "name": str(place), "path": "" if kind == "Transformer" else f"{place}_{kind}", "type": f"{package}.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for entry, name in zip(entries, kinds, strict=True):
        (folder / entry["path"]).mkdir(exist_ok=True)
        if configs.get(name) is not None:
            (folder / entry["path"] / "config.json").write_text(json.dumps(configs[name]))


@pytest.mark.parametrize(
    ("config", "strategy", "activation"),
    [(None, "max", "relu"), ({}, "max", "relu"), ({"pooling_strategy": "sum"}, "sum", "relu"),
     ({"activation_function": "log1p_relu"}, "max", "log1p_relu")],
    ids=str,
)  # fmt: skip
def test_a_splade_module_has_the_librarys_defaults(tmp_path: Path, config: dict[str, Any] | None, strategy: str, activation: str):
    modules(tmp_path, "MLMTransformer", "SpladePooling", SpladePooling=config)
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert sentence_files.splade(read.chain[1]) == sentence_files.Splade(strategy=strategy, activation=activation)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("config", [{"pooling_strategy": "mean"}, {"activation_function": "gelu"}], ids=str)
def test_a_splade_module_of_something_else_is_refused(tmp_path: Path, config: dict[str, Any]):
    modules(tmp_path, "MLMTransformer", "SpladePooling", SpladePooling=config)
    read = sentence_files.read(tmp_path)
    assert read is not None
    with pytest.raises(CheckpointError, match="known are max and sum of relu and log1p_relu"):
        sentence_files.splade(read.chain[1])


@pytest.mark.parametrize(
    ("config", "answers"),
    [
        ({"true_token_id": 5, "false_token_id": 4}, (5, 4)), ({"true_token_id": 0, "false_token_id": 0}, (0, 0)),
        ({"true_token_id": 5, "false_token_id": None}, (5, None)), ({"true_token_id": 5}, (5, None)), ({"true_token_id": True}, None),
        ({"true_token_id": -1}, None), ({"true_token_id": 5, "false_token_id": -1}, None), ({"false_token_id": 5}, None),
        ({"true_token_id": "yes"}, None), ({"true_token_id": 5, "false_token_id": 1.0}, None),
    ],
    ids=str,
)  # fmt: skip
def test_answers_of_a_language_model_are_token_ids(tmp_path: Path, config: dict[str, Any], answers: tuple[int, int | None] | None):
    modules(tmp_path, "Transformer", "LogitScore", LogitScore=config)
    if answers is None:
        with pytest.raises(CheckpointError, match="expected token ids, the second may be null"):
            sentence_files.read(tmp_path)
        return
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert read.answers is not None
    assert (read.answers.true, read.answers.false) == answers


@pytest.mark.parametrize("content", ['[{"path": ""}]', "[5]", "[null]"])
def test_a_list_of_modules_is_one_of_types_and_paths(tmp_path: Path, content: str):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match="expected a list of objects with `type` and `path`"):
        sentence_files.read(tmp_path)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../b"])
def test_modules_stay_inside_the_folder(tmp_path: Path, path: str):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Pooling", "path": path}]))
    with pytest.raises(CheckpointError, match="paths leave the folder"):
        sentence_files.read(tmp_path)


def test_a_folder_without_modules_has_none_of_these_files(tmp_path: Path):
    assert sentence_files.read(tmp_path) is None


def test_settings_of_the_old_generation_are_read(tmp_path: Path):
    modules(tmp_path, "Transformer", "Pooling", "Normalize", Pooling={"pooling_mode_cls_token": True, "include_prompt": False})
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 77, "do_lower_case": True}))
    settings = {"prompts": {"query": "q: "}, "default_prompt_name": "query", "model_type": "SentenceTransformer"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert (read.generation, read.kind, sentence_files.pools(read.chain[1])) == (2, "SentenceTransformer", ("cls",))
    assert read.chain[1].settings["include_prompt"] is False
    assert [(module.reads, module.writes) for module in read.chain[1:]] == [
        ("token_embeddings", "sentence_embedding"), ("sentence_embedding", "sentence_embedding"),
    ]  # fmt: skip
    assert (read.max_tokens, read.lowercase, read.prompts, read.default_prompt) == (77, True, {"query": "q: "}, "query")
    assert read.modules == ("Transformer", "Pooling", "Normalize")
    assert read.settings == settings


def test_plain_folders_have_plain_settings(tmp_path: Path):
    modules(tmp_path, "Transformer", "Pooling", package="sentence_transformers.base.modules", Pooling={"pooling_mode": "lasttoken"})
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": True}))
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert (read.generation, read.kind, sentence_files.pools(read.chain[1])) == (6, "", ("last",))
    assert (read.max_tokens, read.lowercase, read.answers, read.mask, read.prompts, read.default_prompt) == (
        None,
        False,
        None,
        None,
        {},
        None,
    )


def test_pylates_modules_are_colberts(tmp_path: Path):
    modules(tmp_path, "Transformer")
    entries = [
        *json.loads((tmp_path / "modules.json").read_text()),
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "1_Dense/config.json").write_text(json.dumps({"bias": False, "activation_function": None, "use_residual": True}))
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert read.kind == "ColBERT"
    (_, dense) = read.chain
    assert (dense.kind, dense.folder, dense.settings["bias"], read.weight_folders) == ("Dense", "1_Dense", False, ("1_Dense",))
    assert (dense.reads, dense.writes) == ("token_embeddings", "token_embeddings")


@pytest.mark.parametrize(
    ("settings", "reads", "writes"),
    [
        ({}, "sentence_embedding", "sentence_embedding"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings", "token_embeddings"),
        ({"module_output_name": "scores"}, "sentence_embedding", "scores"),
        ({"module_input_name": "a", "module_output_name": "b"}, "a", "b"),
    ],
    ids=str,
)  # fmt: skip
def test_a_dense_module_reads_and_writes_what_it_says(tmp_path: Path, settings: dict[str, str], reads: str, writes: str):
    modules(tmp_path, "Transformer", "Pooling", "Dense", Pooling={"pooling_mode": "cls"}, Dense={"in_features": 8, **settings})
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert (read.chain[2].reads, read.chain[2].writes, str(read.chain[2])) == (reads, writes, "Dense in 2_Dense")
