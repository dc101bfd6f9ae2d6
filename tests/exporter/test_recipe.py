from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.exporter.files import recipe
from poolrt.exporter.proof import published_scores as published
from poolrt.runtime import load
from poolrt.runtime.errors import VerificationError


@pytest.mark.parametrize("asked", ["BAAI/bge-m3", "bge-m3", "baai/BGE-M3"])
def test_a_recipe_is_found_by_hub_id_and_by_folder_name(asked: str):
    found = recipe.find(asked)
    assert found is not None
    assert found.name == "bge-m3"


@pytest.mark.parametrize("asked", ["somebody/bge-m3", "bge-m3-tuned", "bge_m3", "checkpoint"])
def test_a_recipe_is_not_taken_for_another_model(asked: str):
    assert recipe.find(asked) is None


def test_every_recipe_says_where_its_numbers_come_from():
    for each in recipe.all_recipes():
        for reference in each.references:
            assert reference.source, each.name
            assert len(reference.scores) == len(reference.documents), each.name


def test_every_template_a_recipe_names_is_there():
    for each in recipe.all_recipes():
        for name in (each.score_template, each.role_template):
            assert name is None or recipe.template(name), each.name


def test_minilm_gives_the_published_similarities(minilm: Path):
    found = recipe.find("all-MiniLM-L6-v2")
    assert found is not None
    [published] = found.references
    with load(minilm) as model:
        vectors = np.asarray(model.embed([published.query, *published.documents]))
    similarities = vectors[1:] @ vectors[0]
    # Published with five decimals, computed in fp32
    np.testing.assert_allclose(similarities, published.scores, atol=2e-5)


def test_verifying_compares_with_what_was_published(minilm: Path):
    [line] = published.checked(minilm)
    assert line.startswith(
        "published scores of all-MiniLM-L6-v2 (similarity): 0.46469 0.81146 0.72792 0.75019"
    )


def test_other_weights_under_the_same_name_are_noticed(minilm: Path, monkeypatch: pytest.MonkeyPatch):
    found = recipe.find("all-MiniLM-L6-v2")
    assert found is not None
    wrong = dataclasses.replace(found.references[0], scores=(0.46469, 0.81146, 0.72792, 0.7))
    monkeypatch.setattr(recipe, "find", lambda name: dataclasses.replace(found, references=(wrong,)))
    with pytest.raises(VerificationError, match="published scores are not reached"):
        published.checked(minilm)


def test_a_fixture_named_like_a_model_is_not_judged_by_its_scores(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    found = recipe.find("all-MiniLM-L6-v2")
    monkeypatch.setattr(recipe, "find", lambda name: found)
    [line] = published.checked(artifacts("minilm_like"))
    assert "not checked" in line


def test_every_kind_of_recipe_has_its_tasks():
    assert {each.task for each in recipe.all_recipes()} <= set(recipe.TASKS)


def test_recipes_are_listed_with_tasks_and_sizes(capsys: pytest.CaptureFixture[str]):
    from poolrt.exporter import cli

    assert cli.recipes(["MiniLM-L6", "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)["recipes"]}
    assert told["all-MiniLM-L6-v2"]["tasks"] == ["embed", "token_embed", "score"]
    assert told["all-MiniLM-L6-v2"]["dimensions"] == 384
    assert cli.recipes(["MiniLM-L6"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "NAME",
        "KIND",
        "TASKS",
        "PARAMETERS",
        "DIM",
        "TOKENS",
        "LICENCE",
        "SCORES",
        "CHECKPOINT",
    ]
    assert any("apache-2.0" in row and "sentence-transformers/all-MiniLM-L6-v2" in row for row in rows)
