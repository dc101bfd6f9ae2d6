"""SPLADE against Sentence Transformers' SparseEncoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.families import TEXTS, find
from tests.families.proof import COSINE, cosines, prove


def of_the_library(folder: Path, texts: list[str]) -> list[np.ndarray]:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), device="cpu")
    return [
        model.encode([text], convert_to_sparse_tensor=False, show_progress_bar=False)[0].numpy()
        for text in texts
    ]


@pytest.mark.parametrize(
    "name", ["splade_bert", "splade_untied", "splade_twice", "splade_modernbert", "splade_distilbert"]
)
def test_sparse_embeddings_equal_the_library(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / "checkpoint")
    proved = prove(folder)
    head = proved.plan.heads["embed"]
    assert (head.sparse, head.activation, proved.plan.scoring) == (True, "identity", "bi-encoder")
    assert proved.checkpoint.architecture.endswith("SpladeSparseEmbeddingModel")
    ours, theirs = proved.answers("embed", TEXTS), of_the_library(folder, list(TEXTS))
    assert cosines(ours, theirs).min() > COSINE
    # Not normalised: values up to 4, sums up to 200
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=1e-4, atol=1e-5)
    assert all((vector >= 0).all() for vector in ours)


def test_padding_adds_nothing_to_a_sum(tmp_path: Path):
    proved = prove(find("splade_untied")(tmp_path / "checkpoint"))
    together, alone = proved.answers("embed", ["a", TEXTS[3]])[0], proved.answers("embed", ["a"])[0]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
