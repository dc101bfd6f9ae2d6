"""Qdrant's own client, in memory, over artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.integrations.conftest import QUERY, SAME, TEXTS, late_scores, ranked

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.slow

from poolrt.runtime import InputError  # noqa: E402
from poolrt.runtime.integrations.qdrant import PoolrtRerank, PoolrtVectors  # noqa: E402
from qdrant_client import QdrantClient, models  # noqa: E402


def stored(vectors: PoolrtVectors) -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection(
        "texts",
        vectors_config=vectors.vectors_config(),
        sparse_vectors_config=vectors.sparse_vectors_config(),
    )
    payloads = [{"place": place} for place in range(len(TEXTS))]
    client.upsert("texts", vectors.points(TEXTS, ids=[1, 2, 3], payloads=payloads))
    return client


def results(client: QdrantClient, vectors: PoolrtVectors, kind: str) -> list[tuple[str, float]]:
    query = {str(name): vector for name, vector in vectors.query(QUERY).items()}[kind]
    points = client.query_points("texts", query=query, using=kind, limit=3).points
    return [(point.payload["text"], point.score) for point in points if point.payload is not None]


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]], tolerance: float) -> None:
    assert [text for text, _ in found] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in found], [score for _, score in expected], atol=tolerance
    )


def test_dense_vectors_find_as_sentence_transformers_does(minilm: Path, vectors: np.ndarray) -> None:
    own = PoolrtVectors(str(minilm))
    assert own.kinds == ("dense",)
    same(results(stored(own), own, "dense"), ranked(vectors[:-1] @ vectors[-1]), SAME)


def test_late_interaction_is_maxsim_of_token_vectors(colbert: str) -> None:
    own = PoolrtVectors(colbert)
    assert own.kinds == ("late",)
    same(results(stored(own), own, "late"), ranked(late_scores(colbert)), 1e-4)


def test_one_collection_holds_all_three_kinds_of_a_model(sparse: str) -> None:
    own = PoolrtVectors(sparse, kinds=("dense", "sparse", "late"))
    client, query = stored(own), own.query(QUERY)
    assert {text for text, _ in results(client, own, "dense")} == set(TEXTS)
    late = late_scores(sparse)
    same(results(client, own, "late"), ranked(late), 1e-4)
    (point, *_) = client.retrieve("texts", [1], with_vectors=True)
    assert isinstance(point.vector, dict)
    assert set(point.vector) == {"dense", "sparse", "late"}
    assert point.payload == {"text": TEXTS[0], "place": 0}
    # Found by the sparse vector or the dense one, ranked by late interaction
    fused = client.query_points(
        "texts",
        prefetch=[
            models.Prefetch(query=query["sparse"], using="sparse"),  # pyright: ignore[reportArgumentType]
            models.Prefetch(query=query["dense"], using="dense"),  # pyright: ignore[reportArgumentType]
        ],
        query=query["late"],
        using="late",
    ).points
    assert [point.id for point in fused] == [TEXTS.index(text) + 1 for text, _ in ranked(late)]


def test_found_points_are_ranked_again(minilm: Path, reranker: str, scores: np.ndarray) -> None:
    own = PoolrtVectors(str(minilm))
    points = stored(own).query_points("texts", query=own.query(QUERY)["dense"], using="dense").points
    best = PoolrtRerank(reranker).rank(QUERY, points, top_n=2)
    same([(point.payload["text"], point.score) for point in best if point.payload], ranked(scores)[:2], SAME)
    bare = stored(own).query_points(
        "texts", query=own.query(QUERY)["dense"], using="dense", with_payload=False
    )
    with pytest.raises(InputError, match="3 points have no 'text'"):
        PoolrtRerank(reranker).rank(QUERY, bare.points)


def test_what_a_model_cannot_make_is_refused(minilm: Path, reranker: str) -> None:
    with pytest.raises(InputError, match="no vectors of kind sparse; it has dense, late"):
        PoolrtVectors(str(minilm), kinds=("sparse",))
    with pytest.raises(InputError, match="scores pairs"):
        PoolrtVectors(reranker)
    with pytest.raises(InputError, match="2 ids for 3 texts"):
        PoolrtVectors(str(minilm)).points(TEXTS, ids=[1, 2])
