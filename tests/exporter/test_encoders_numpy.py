"""Families that transformers does not build as published, against numpy written from their description."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.families import TEXTS, find, plain
from tests.families.proof import COSINE, DIFFERENCE, cosines, differences, prove

SHORT = TEXTS[:4]
PREFIXES = {"mgte_embedder": "new.", "mgte_reranker": "new."}


@pytest.mark.parametrize(
    "name", ["mgte_embedder", "gte_en", "gte_snowflake", "nomic_v1", "nomic_v15", "nomic_moe"]
)
def test_hidden_states_equal_plain_numpy(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / "checkpoint")
    proved = prove(folder)
    config = json.loads((folder / "config.json").read_text())
    known = plain.tensors(folder, prefix=PREFIXES.get(name, ""))
    encode = plain.nomic if name.startswith("nomic") else plain.gte
    expected = [encode(known, config, ids) for ids in proved.ids(SHORT)]
    assert cosines(proved.raw("token_embed", SHORT), expected).min() > COSINE
    pooled = [hidden.mean(0) if name.startswith("nomic") else hidden[0] for hidden in expected]
    assert cosines(proved.raw("embed", SHORT), pooled).min() > COSINE


def test_logits_of_the_reranker_equal_plain_numpy(tmp_path: Path):
    folder = find("mgte_reranker")(tmp_path / "checkpoint")
    proved = prove(folder)
    config = json.loads((folder / "config.json").read_text())
    known = plain.tensors(folder, prefix=PREFIXES["mgte_reranker"])

    def layer(name: str, values: np.ndarray) -> np.ndarray:
        return known[f"{name}.weight"] @ values + known[f"{name}.bias"]

    expected = [
        layer("classifier", np.tanh(layer("pooler.dense", plain.gte(known, config, ids)[0])))
        for ids in proved.ids(SHORT)
    ]
    assert differences(proved.raw("classify", SHORT), expected) < DIFFERENCE
