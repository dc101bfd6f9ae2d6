"""LlamaIndex's own classes over artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.integrations.conftest import QUERY, SAME, TEXTS, late_scores, ranked

pytest.importorskip("llama_index.core")
pytestmark = pytest.mark.slow

from llama_index.core import VectorStoreIndex  # noqa: E402
from llama_index.core.schema import NodeWithScore, TextNode  # noqa: E402
from poolrt.runtime import InputError  # noqa: E402
from poolrt.runtime.integrations.llama_index import PoolrtEmbedding, PoolrtRerank  # noqa: E402


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]


def test_vectors_are_those_of_sentence_transformers(minilm: Path, vectors: np.ndarray) -> None:
    embedding = PoolrtEmbedding(str(minilm))
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), vectors[:-1], atol=SAME)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), vectors[0], atol=SAME)
    np.testing.assert_allclose(embedding.get_query_embedding(QUERY), vectors[-1], atol=SAME)
    alone = asyncio.run(embedding.aget_text_embedding(TEXTS[0]))
    np.testing.assert_allclose(alone, vectors[0], atol=SAME)
    together = asyncio.run(embedding.aget_text_embedding_batch(TEXTS))
    np.testing.assert_allclose(together, vectors[:-1], atol=SAME)
    query = asyncio.run(embedding.aget_query_embedding(QUERY))
    np.testing.assert_allclose(query, vectors[-1], atol=SAME)


def test_an_index_finds_by_cosine_and_is_reranked(
    minilm: Path, reranker: str, vectors: np.ndarray, scores: np.ndarray
) -> None:
    index = VectorStoreIndex(
        [TextNode(text=text) for text in TEXTS], embed_model=PoolrtEmbedding(str(minilm))
    )
    results = index.as_retriever(similarity_top_k=3).retrieve(QUERY)
    expected = ranked(vectors[:-1] @ vectors[-1])
    assert [result.text for result in results] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [result.get_score() for result in results], [score for _, score in expected], atol=SAME
    )
    best = PoolrtRerank(reranker, top_n=1).postprocess_nodes(results, query_str=QUERY)
    assert [(node.text, node.score) for node in best] == [
        (text, pytest.approx(score, abs=SAME)) for text, score in ranked(scores)[:1]
    ]


@pytest.mark.parametrize("kind", ["cross-encoder", "late interaction"])
def test_a_postprocessor_ranks(kind: str, reranker: str, colbert: str, scores: np.ndarray) -> None:
    artifact = reranker if kind == "cross-encoder" else colbert
    expected = ranked(scores if kind == "cross-encoder" else late_scores(colbert))
    postprocessor = PoolrtRerank(artifact, top_n=2)
    for results in (
        postprocessor.postprocess_nodes(nodes(), query_str=QUERY),
        asyncio.run(postprocessor.apostprocess_nodes(nodes(), query_str=QUERY)),
    ):
        assert [result.text for result in results] == [text for text, _ in expected[:2]]
        np.testing.assert_allclose(
            [result.get_score() for result in results], [score for _, score in expected[:2]], atol=1e-4
        )
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InputError, match="query_str"):
        postprocessor.postprocess_nodes(nodes())


def test_both_are_stored_as_dicts(minilm: Path, reranker: str) -> None:
    embedding = PoolrtEmbedding(str(minilm), embed_batch_size=32)
    stored = embedding.to_dict()
    assert stored["class_name"] == "PoolrtEmbedding"
    again = PoolrtEmbedding.from_dict(stored)
    assert again.embed_batch_size == 32
    assert again._model is embedding._model
    postprocessor = PoolrtRerank.from_dict(PoolrtRerank(reranker, top_n=7).to_dict())
    assert (postprocessor.artifact, postprocessor.top_n) == (reranker, 7)
