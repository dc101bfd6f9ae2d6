"""Chroma's own collections over artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integrations.conftest import QUERY, SAME, TEXTS, ranked

pytest.importorskip("chromadb")
# Chroma's own start, and asyncio of the libraries it brings
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

import chromadb  # noqa: E402
from chromadb.utils.embedding_functions import (  # noqa: E402
    config_to_embedding_function,
    sparse_known_embedding_functions,
)
from poolrt.runtime.integrations.chroma import PoolrtEmbeddingFunction, PoolrtSparseEmbeddingFunction  # noqa: E402

# Chroma types the functions of clients as if each took pictures too, its own included.
function_of: Any = PoolrtEmbeddingFunction
IDS = [str(place) for place in range(len(TEXTS))]


def test_vectors_are_those_of_sentence_transformers(minilm: Path, vectors: np.ndarray) -> None:
    function = PoolrtEmbeddingFunction(str(minilm))
    np.testing.assert_allclose(function(TEXTS), vectors[:-1], atol=SAME)
    np.testing.assert_allclose(function.embed_query([QUERY]), vectors[-1:], atol=SAME)


def test_a_stored_collection_finds_its_function_again(
    minilm: Path, vectors: np.ndarray, tmp_path: Path
) -> None:
    client = chromadb.PersistentClient(tmp_path / "store")
    collection = client.create_collection("texts", embedding_function=function_of(str(minilm)))
    collection.add(ids=IDS, documents=TEXTS)
    expected = ranked(vectors[:-1] @ vectors[-1])
    for opened in (collection, client.get_collection("texts")):  # the second one by its stored configuration
        result = opened.query(query_texts=[QUERY], n_results=3, include=["distances", "documents"])
        assert result["documents"] is not None
        assert result["distances"] is not None
        assert result["documents"][0] == [text for text, _ in expected]
        np.testing.assert_allclose(result["distances"][0], [1 - score for _, score in expected], atol=SAME)


def test_an_artifact_may_move(minilm: Path, tmp_path: Path) -> None:
    client = chromadb.PersistentClient(tmp_path / "store")
    client.create_collection("texts", embedding_function=function_of(str(minilm)))
    moved = shutil.copytree(minilm, tmp_path / "moved")
    collection = client.get_collection("texts", embedding_function=function_of(str(moved)))
    collection.add(ids=IDS, documents=TEXTS)
    assert collection.count() == len(TEXTS)


def test_configurations_make_equal_functions(minilm: Path, sparse: str) -> None:
    function = PoolrtEmbeddingFunction(str(minilm), options={"threads": 1})
    again = config_to_embedding_function({"name": "poolrt", "config": function.get_config()})
    assert isinstance(again, PoolrtEmbeddingFunction)
    assert again.get_config() == function.get_config()
    other = PoolrtSparseEmbeddingFunction(sparse)
    known = sparse_known_embedding_functions["poolrt_sparse"].build_from_config(other.get_config())
    assert known.get_config() == other.get_config()


def test_sparse_vectors_are_the_models(sparse: str) -> None:
    from poolrt.runtime.integrations.haystack import PoolrtSparseTextEmbedder

    function = PoolrtSparseEmbeddingFunction(sparse)
    (query,) = function.embed_query([QUERY])
    expected = PoolrtSparseTextEmbedder(sparse).run(QUERY)["sparse_embedding"]
    assert query.indices == expected.indices
    np.testing.assert_allclose(query.values, expected.values, atol=SAME)
    assert len(function(TEXTS)) == len(TEXTS)
