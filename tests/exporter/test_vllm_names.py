"""What vLLM's documentation says of names and overrides: which names are classifiers, and that a user's
word wins over a recipe's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint as checkpoints_of
from poolrt.exporter import cli, pipeline
from poolrt.exporter.detection import is_classification
from poolrt.exporter.heads import planning
from poolrt.runtime import load
from poolrt.runtime.errors import CheckpointError

from tests.families import find

TEXTS = ["what is the capital of france", "paris", "mars is known as the red planet"]
CLOSE = 1e-5  # fp32 on both sides


def renamed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy whose config.json says something else."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


@pytest.mark.parametrize(
    ("name", "classifies"),
    [
        ("BertForTextClassification", True), ("BertForSentimentClassification", True),
        ("XForMultiLabelClassification", True),
        ("MyClassificationModel", True), ("DebertaClassificationModel", True), ("BertForMaskedLM", False),
        ("BertModel", False),
        ("ClassificationForBert", False),
    ],
)  # fmt: skip
def test_names_of_classifiers(name: str, classifies: bool):
    assert is_classification(name) == classifies


@pytest.mark.parametrize(
    "name", ["BertForTextClassification", "BertForSentimentClassification", "BertClassificationModel"]
)
def test_any_name_of_a_classifier_is_read_as_one(
    checkpoints: Callable[[str], Path], tmp_path: Path, name: str
):
    found = checkpoints_of.read(renamed(checkpoints("bert_classifier"), tmp_path / "m", architectures=[name]))
    plan = planning.plan(found)
    assert (found.kind, plan.tasks) == ("classify", ("classify", "token_classify"))
    assert plan.heads["classify"].labels == ("negative", "neutral", "positive")


def test_its_numbers_are_those_of_transformers(checkpoints: Callable[[str], Path], tmp_path: Path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = renamed(
        checkpoints("bert_classifier"), tmp_path / "m", architectures=["BertForTextClassification"]
    )
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.inference_mode():
        expected = [
            model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].numpy() for text in TEXTS
        ]
    pipeline.export(folder, name="m", out=tmp_path / "out")
    with load(tmp_path / "out" / "m", threads=1) as opened:
        np.testing.assert_allclose(np.asarray(opened.classify(TEXTS)), expected, atol=CLOSE)


def test_a_classifier_without_a_head_is_refused_by_its_tensors(
    checkpoints: Callable[[str], Path], tmp_path: Path
):
    found = checkpoints_of.read(
        renamed(checkpoints("bert_plain"), tmp_path / "m", architectures=["BertForTextClassification"])
    )
    with pytest.raises(CheckpointError, match=r"score|classifier"):
        planning.plan(found)


@pytest.mark.parametrize(
    ("overrides", "widths", "any_width"),
    [
        ({}, (16, 24), False),
        ({"is_matryoshka": True}, (), True),
        ({"is_matryoshka": False}, (), False),
        ({"matryoshka_dimensions": [8]}, (8,), False),
        ({"is_matryoshka": True, "matryoshka_dimensions": [8]}, (8,), False),
    ],
)
def test_a_users_matryoshka_wins_over_a_recipes(
    checkpoints: Callable[[str], Path], overrides: dict[str, Any], widths: tuple[int, ...], any_width: bool
):
    from dataclasses import replace

    from poolrt.exporter.files import recipe

    known = recipe.find("snowflake-arctic-embed-m-v1.5")
    assert known is not None
    known = replace(known, hf_overrides={"matryoshka_dimensions": [16, 24]})
    found = checkpoints_of.read(checkpoints("minilm_like"), recipe=known, hf_overrides=overrides)
    head = planning.plan(found).heads["embed"]
    assert (head.matryoshka, head.any_dimension) == (widths, any_width)


@pytest.mark.parametrize(
    ("asked", "activation"),
    [
        ({"pooling_type": "MEAN"}, "l2"),
        ({"seq_pooling_type": "MEAN"}, "l2"),
        ({"pooling_type": "MEAN", "use_activation": False}, "identity"),
        ({"dimensions": None}, "identity"),
    ],
)
def test_ssmits_mean_is_normalised_as_embeds_default_says(
    tmp_path: Path, asked: dict[str, Any], activation: str
):
    folder = find("qwen2_ssmits")(tmp_path / "Qwen2-7B-Instruct-embed-base")
    found = checkpoints_of.read(folder, pooler_config=asked)
    assert found.recipe is not None
    head = planning.plan(found).heads["embed"]
    assert (head.pool, head.activation) == ("mean", activation)


@pytest.mark.parametrize("flag", ["--hf_overrides", "--hf-overrides", "--hf_overrides.num_labels"])
def test_flags_are_spelled_either_way(
    checkpoints: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
):
    value = "7" if "." in flag else '{"num_labels": 7}'
    code = cli.export(
        [
            str(checkpoints("bert_classifier")),
            flag,
            value,
            "--pooler_config",
            "{}",
            "--no_recipe",
            "--out",
            str(tmp_path),
        ]
    )
    assert code == 2
    assert "config.json names 7 labels, the classifier has 3 rows" in capsys.readouterr().err
