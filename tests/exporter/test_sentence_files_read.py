"""What the files of Sentence Transformers say, module by module, from folders written by
hand: no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter.files import sentence_files
from poolrt.runtime.errors import CheckpointError


def modules(folder: Path, *kinds: str, package: str = "sentence_transformers.models", **configs: Any) -> None:
    """modules.json and a config for each module; the Transformer stands in the folder itself."""
    entries = [
        {
            "idx": place,
            "name": str(place),
            "path": "" if kind == "Transformer" else f"{place}_{kind}",
            "type": f"{package}.{kind}",
        }
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
def test_a_splade_module_has_the_librarys_defaults(
    tmp_path: Path, config: dict[str, Any] | None, strategy: str, activation: str
):
    modules(tmp_path, "MLMTransformer", "SpladePooling", SpladePooling=config)
    read = sentence_files.read(tmp_path)
    assert read is not None
    splade = sentence_files.splade(read.chain[1])
    assert (splade.strategy, splade.activation) == (strategy, activation)


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
        ({"true_token_id": 5, "false_token_id": 4}, (5, 4)),
        ({"true_token_id": 0, "false_token_id": 0}, (0, 0)),
        ({"true_token_id": 5, "false_token_id": None}, (5, None)), ({"true_token_id": 5}, (5, None)),
        ({"true_token_id": True}, None),
        ({"true_token_id": -1}, None), ({"true_token_id": 5, "false_token_id": -1}, None),
        ({"false_token_id": 5}, None),
        ({"true_token_id": "yes"}, None), ({"true_token_id": 5, "false_token_id": 1.0}, None),
    ],
    ids=str,
)  # fmt: skip
def test_answers_of_a_language_model_are_token_ids(
    tmp_path: Path, config: dict[str, Any], answers: tuple[int, int | None] | None
):
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
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Pooling", "path": path}])
    )
    with pytest.raises(CheckpointError, match="paths leave the folder"):
        sentence_files.read(tmp_path)


def test_a_folder_without_modules_has_none_of_these_files(tmp_path: Path):
    assert sentence_files.read(tmp_path) is None


def test_settings_of_the_old_generation_are_read(tmp_path: Path):
    modules(
        tmp_path,
        "Transformer",
        "Pooling",
        "Normalize",
        Pooling={"pooling_mode_cls_token": True, "include_prompt": False},
    )
    (tmp_path / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 77, "do_lower_case": True})
    )
    settings = {
        "prompts": {"query": "q: "},
        "default_prompt_name": "query",
        "model_type": "SentenceTransformer",
    }
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert (read.generation, read.kind, sentence_files.pools(read.chain[1])) == (
        2,
        "SentenceTransformer",
        ("cls",),
    )
    assert read.chain[1].settings["include_prompt"] is False
    assert [(module.reads, module.writes) for module in read.chain[1:]] == [
        ("token_embeddings", "sentence_embedding"), ("sentence_embedding", "sentence_embedding"),
    ]  # fmt: skip
    assert (read.max_tokens, read.lowercase, read.prompts, read.default_prompt) == (
        77,
        True,
        {"query": "q: "},
        "query",
    )
    assert read.modules == ("Transformer", "Pooling", "Normalize")
    assert read.settings == settings


def test_plain_folders_have_plain_settings(tmp_path: Path):
    modules(
        tmp_path,
        "Transformer",
        "Pooling",
        package="sentence_transformers.base.modules",
        Pooling={"pooling_mode": "lasttoken"},
    )
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
    (tmp_path / "1_Dense/config.json").write_text(
        json.dumps({"bias": False, "activation_function": None, "use_residual": True})
    )
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert read.kind == "ColBERT"
    (_, dense) = read.chain
    assert (dense.kind, dense.folder, dense.settings["bias"], read.weight_folders) == (
        "Dense",
        "1_Dense",
        False,
        ("1_Dense",),
    )
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
def test_a_dense_module_reads_and_writes_what_it_says(
    tmp_path: Path, settings: dict[str, str], reads: str, writes: str
):
    modules(
        tmp_path,
        "Transformer",
        "Pooling",
        "Dense",
        Pooling={"pooling_mode": "cls"},
        Dense={"in_features": 8, **settings},
    )
    read = sentence_files.read(tmp_path)
    assert read is not None
    assert (read.chain[2].reads, read.chain[2].writes, str(read.chain[2])) == (
        reads,
        writes,
        "Dense in 2_Dense",
    )
