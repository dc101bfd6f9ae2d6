"""LangChain's own classes over artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.integrations.conftest import QUERY, SAME, TEXTS, late_scores, ranked

pytest.importorskip("langchain_core")
pytestmark = pytest.mark.slow

from langchain_core.documents import Document  # noqa: E402
from langchain_core.vectorstores import InMemoryVectorStore  # noqa: E402
from poolrt.runtime.integrations.langchain import PoolrtEmbeddings, PoolrtRerank  # noqa: E402

DOCUMENTS = [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(TEXTS)]


def test_vectors_are_those_of_sentence_transformers(minilm: Path, vectors: np.ndarray) -> None:
    embeddings = PoolrtEmbeddings(artifact=str(minilm))
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), vectors[:-1], atol=SAME)
    np.testing.assert_allclose(embeddings.embed_query(QUERY), vectors[-1], atol=SAME)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_documents(TEXTS)), vectors[:-1], atol=SAME)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_query(QUERY)), vectors[-1], atol=SAME)
    assert embeddings.embed_documents([]) == []


def test_a_vector_store_finds_by_cosine(minilm: Path, vectors: np.ndarray) -> None:
    store = InMemoryVectorStore(PoolrtEmbeddings(artifact=str(minilm)))
    store.add_documents(DOCUMENTS)
    expected = ranked(vectors[:-1] @ vectors[-1])
    results = store.similarity_search_with_score(QUERY, k=3)
    assert [document.page_content for document, _ in results] == [text for text, _ in expected]
    np.testing.assert_allclose([score for _, score in results], [score for _, score in expected], atol=SAME)


def test_a_compressor_ranks_as_cross_encoder_does(reranker: str, scores: np.ndarray) -> None:
    compressor = PoolrtRerank(artifact=reranker, top_n=2)
    for results in (
        compressor.compress_documents(DOCUMENTS, QUERY),
        asyncio.run(compressor.acompress_documents(DOCUMENTS, QUERY)),
    ):
        expected = ranked(scores)[:2]
        assert [document.page_content for document in results] == [text for text, _ in expected]
        np.testing.assert_allclose(
            [document.metadata["relevance_score"] for document in results],
            [score for _, score in expected],
            atol=SAME,
        )
        assert all("place" in document.metadata for document in results)
    assert all("relevance_score" not in document.metadata for document in DOCUMENTS)
    assert list(compressor.compress_documents([], QUERY)) == []


def test_late_interaction_ranks_by_the_best_token_of_each_word(colbert: str) -> None:
    results = PoolrtRerank(artifact=colbert, top_n=0).compress_documents(DOCUMENTS, QUERY)
    expected = ranked(late_scores(colbert))
    assert [document.page_content for document in results] == [text for text, _ in expected]
    np.testing.assert_allclose(
        [document.metadata["relevance_score"] for document in results],
        [score for _, score in expected],
        atol=1e-4,
    )


def test_fields_are_stored_and_an_artifact_is_opened_once(minilm: Path) -> None:
    embeddings = PoolrtEmbeddings(artifact=str(minilm), options={"threads": 1})
    again = PoolrtEmbeddings(**embeddings.model_dump())
    assert again._model is embeddings._model
    assert again == embeddings
    assert PoolrtEmbeddings(artifact=str(minilm), options={"threads": 2})._model is not embeddings._model
    with pytest.raises(ValueError, match="artefact"):
        PoolrtEmbeddings.model_validate({"artifact": str(minilm), "artefact": "x"})
