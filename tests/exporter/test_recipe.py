from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from poolrt.exporter import recipe
from poolrt.runtime import load


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
        if each.score_template is not None:
            assert recipe.template(each.score_template), each.name


def test_minilm_gives_the_published_similarities(minilm: Path):
    found = recipe.find("all-MiniLM-L6-v2")
    assert found is not None
    [published] = found.references
    with load(minilm) as model:
        vectors = np.asarray(model.embed([published.query, *published.documents]))
    similarities = vectors[1:] @ vectors[0]
    np.testing.assert_allclose(similarities, published.scores, atol=2e-5)  # published with five decimals, computed in fp32
