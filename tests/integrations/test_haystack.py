"""Haystack's own pipelines over artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integrations.conftest import QUERY, SAME, TEXTS, late_scores, ranked

pytest.importorskip("haystack")
pytestmark = pytest.mark.slow

from haystack import Document, Pipeline  # noqa: E402
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever  # noqa: E402
from haystack.document_stores.in_memory import InMemoryDocumentStore  # noqa: E402
from poolrt.runtime import InputError, load  # noqa: E402
from poolrt.runtime.integrations.haystack import (  # noqa: E402
    PoolrtDocumentEmbedder,
    PoolrtRanker,
    PoolrtSparseDocumentEmbedder,
    PoolrtSparseTextEmbedder,
    PoolrtTextEmbedder,
)


def documents() -> list[Document]:
    return [Document(content=text, meta={"title": f"title {place}"}) for place, text in enumerate(TEXTS)]


def test_vectors_are_those_of_sentence_transformers(minilm: Path, vectors: np.ndarray) -> None:
    embedder = PoolrtDocumentEmbedder(str(minilm))
    for result in (embedder.run(documents()), asyncio.run(embedder.run_async(documents()))):
        rows = [document.embedding for document in result["documents"]]
        np.testing.assert_allclose(rows, vectors[:-1], atol=SAME)
    texts = PoolrtTextEmbedder(str(minilm))
    for result in (texts.run(QUERY), asyncio.run(texts.run_async(QUERY))):
        np.testing.assert_allclose(result["embedding"], vectors[-1], atol=SAME)
    assert embedder.run([])["documents"] == []


def test_metadata_stands_in_front_of_the_content(minilm: Path) -> None:
    embedder = PoolrtDocumentEmbedder(
        str(minilm), meta_fields_to_embed=["title", "none"], embedding_separator=" | ", prefix="<", suffix=">"
    )
    with load(minilm) as model:
        expected = np.asarray(model.embed([f"<title {place} | {text}>" for place, text in enumerate(TEXTS)]))
    rows = [document.embedding for document in embedder.run(documents())["documents"]]
    np.testing.assert_allclose(rows, expected, atol=SAME)


def test_a_stored_pipeline_embeds_finds_and_ranks(
    minilm: Path, reranker: str, vectors: np.ndarray, scores: np.ndarray
) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(PoolrtDocumentEmbedder(str(minilm)).run(documents())["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", PoolrtTextEmbedder(str(minilm)))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    pipeline.add_component("ranker", PoolrtRanker(reranker, top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever.documents", "ranker.documents")
    request: dict[str, Any] = {"embedder": {"text": QUERY}, "ranker": {"query": QUERY}}
    result = pipeline.run(request, include_outputs_from={"retriever"})
    retrieved = [document.content for document in result["retriever"]["documents"]]
    assert retrieved == [text for text, _ in ranked(vectors[:-1] @ vectors[-1])]
    best = result["ranker"]["documents"]
    assert [document.content for document in best] == [text for text, _ in ranked(scores)[:2]]
    np.testing.assert_allclose(
        [document.score for document in best], [score for _, score in ranked(scores)[:2]], atol=SAME
    )


@pytest.mark.parametrize(
    "component",
    [PoolrtTextEmbedder, PoolrtDocumentEmbedder, PoolrtRanker, PoolrtSparseTextEmbedder,
     PoolrtSparseDocumentEmbedder],
)  # fmt: skip
def test_every_component_survives_a_pipelines_file(component: Any, sparse: str) -> None:
    pipeline = Pipeline()
    original = component(sparse, options={"threads": 1})
    pipeline.add_component("it", original)
    again: Any = Pipeline.loads(pipeline.dumps()).get_component("it")
    assert type(again) is component
    assert again.to_dict() == original.to_dict()
    again.warm_up()


def test_late_interaction_and_thresholds(colbert: str) -> None:
    expected = ranked(late_scores(colbert))
    ranker = PoolrtRanker(colbert)
    for result in (ranker.run(QUERY, documents()), asyncio.run(ranker.run_async(QUERY, documents()))):
        assert [document.content for document in result["documents"]] == [text for text, _ in expected]
    least = (expected[0][1] + expected[1][1]) / 2
    best = ranker.run(QUERY, documents(), score_threshold=least)["documents"]
    assert [document.content for document in best] == [expected[0][0]]
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(InputError, match="top_k"):
        ranker.run(QUERY, documents(), top_k=0)


def test_sparse_weights_are_the_models(sparse: str) -> None:
    query = PoolrtSparseTextEmbedder(sparse).run(QUERY)["sparse_embedding"]
    embedder = PoolrtSparseDocumentEmbedder(sparse)
    results = embedder.run(documents())["documents"]
    results_async = asyncio.run(embedder.run_async(documents()))["documents"]
    with load(sparse) as model:
        output = model.token_classify(QUERY)[0]
        ids = output.prompt_token_ids[1:-1]
        weights = dict.fromkeys(ids, 0.0)
        for token, weight in zip(ids, output.outputs.data.ravel().tolist(), strict=True):
            weights[token] = max(weights[token], weight)
    expected = {token: weight for token, weight in sorted(weights.items()) if weight > 0}
    assert query.indices == list(expected)
    np.testing.assert_allclose(query.values, list(expected.values()), atol=SAME)
    for document, other in zip(results, results_async, strict=True):
        assert document.sparse_embedding is not None
        assert document.sparse_embedding.indices == other.sparse_embedding.indices


def test_components_refuse_what_is_not_theirs(minilm: Path) -> None:
    with pytest.raises(InputError, match="PoolrtDocumentEmbedder"):
        PoolrtTextEmbedder(str(minilm)).run(documents())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="PoolrtTextEmbedder"):
        PoolrtDocumentEmbedder(str(minilm)).run("a text")  # pyright: ignore[reportArgumentType]
