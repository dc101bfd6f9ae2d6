"""Artifacts, and what sentence-transformers computes from the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

TEXTS = ["a lion is a cat", "rain tomorrow", "dough rises because yeast makes gas"]
QUERY = "why does bread grow?"
SAME = 1e-5  # float32 of another library: MiniLM differs by 2e-7


@pytest.fixture(scope="session")
def vectors(minilm_checkpoint: Path) -> NDArray[np.float32]:
    """[texts + 1, 384]: of TEXTS, then of QUERY, by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_checkpoint), device="cpu").encode([*TEXTS, QUERY])


@pytest.fixture(scope="session")
def scores(checkpoints: Callable[[str], Path]) -> NDArray[np.float32]:
    """[texts]: of (QUERY, text), by sentence-transformers' CrossEncoder."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(checkpoints("bert_cross_encoder")), device="cpu")
    return np.asarray(model.predict([(QUERY, text) for text in TEXTS]))


@pytest.fixture
def reranker(artifacts: Callable[[str], Path]) -> str:
    return str(artifacts("bert_cross_encoder"))


@pytest.fixture
def colbert(artifacts: Callable[[str], Path]) -> str:
    return str(artifacts("colbert"))


@pytest.fixture
def sparse(artifacts: Callable[[str], Path]) -> str:
    return str(artifacts("bge_m3"))


def ranked(scores: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The texts with their scores, best first."""
    order = np.argsort(-scores, kind="stable").tolist()
    return [(TEXTS[place], float(scores[place])) for place in order]


def late_scores(artifact: str) -> NDArray[np.float32]:
    """[texts]: MaxSim of the token vectors, summed here."""
    from poolrt.runtime import load

    with load(artifact) as model:
        query = model.token_embed(QUERY, role="query")[0].outputs.data
        documents = model.token_embed(TEXTS, role="document")
        return np.array([(query @ row.outputs.data.T).max(axis=1).sum() for row in documents.requests])
