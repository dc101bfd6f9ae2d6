"""Chroma: dense and sparse embedding functions, registered under their names, so that a stored collection
finds them again once this module is imported. Chroma has no place for rerankers and late interaction."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    from chromadb.api.types import (
        Documents,
        EmbeddingFunction,
        Embeddings,
        Space,
        SparseEmbeddingFunction,
        SparseVector,
        SparseVectors,
    )
    from chromadb.utils.embedding_functions import (
        register_embedding_function,
        register_sparse_embedding_function,
    )
except ImportError as error:
    raise ImportError(
        "poolrt.runtime.integrations.chroma needs chromadb: pip install 'poolrt[chroma]'"
    ) from error

from . import opening


@register_embedding_function
class PoolrtEmbeddingFunction(EmbeddingFunction[Documents]):
    """Vectors of an artifact; queries and documents are prepared as the model's authors do.

    Args:
        artifact: the artifact's folder. It may lie elsewhere when a collection is opened again.
        dimensions: width to cut to, of Matryoshka models.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self, artifact: str, *, dimensions: int | None = None, options: dict[str, Any] | None = None
    ) -> None:
        self.artifact = artifact
        self.dimensions = dimensions
        self.options = options or {}
        self._model = opening.opened(artifact, self.options)

    def __call__(self, input: Documents) -> Embeddings:
        return self._vectors(input, "document")

    def embed_query(self, input: Documents) -> Embeddings:
        return self._vectors(input, "query")

    def _vectors(self, texts: Documents, role: opening.Role) -> Embeddings:
        rows = opening.dense(self._model, texts, role, self.dimensions)
        return [np.asarray(row, dtype=np.float32) for row in rows]

    @staticmethod
    def name() -> str:
        return "poolrt"

    def default_space(self) -> Space:
        return "cosine"

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> PoolrtEmbeddingFunction:
        return PoolrtEmbeddingFunction(**config)

    def get_config(self) -> dict[str, Any]:
        return {"artifact": self.artifact, "dimensions": self.dimensions, "options": self.options}


@register_sparse_embedding_function
class PoolrtSparseEmbeddingFunction(SparseEmbeddingFunction[Documents]):
    """Sparse vectors of a SPLADE model or bge-m3.

    Args:
        artifact: the artifact's folder.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(self, artifact: str, *, options: dict[str, Any] | None = None) -> None:
        self.artifact = artifact
        self.options = options or {}
        self._model = opening.opened(artifact, self.options)

    def __call__(self, input: Documents) -> SparseVectors:
        return self._vectors(input, "document")

    def embed_query(self, input: Documents) -> SparseVectors:
        return self._vectors(input, "query")

    def _vectors(self, texts: Documents, role: opening.Role) -> SparseVectors:
        rows = opening.sparse(self._model, texts, role)
        return [SparseVector(indices=indices, values=values) for indices, values in rows]

    @staticmethod
    def name() -> str:
        return "poolrt_sparse"

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> PoolrtSparseEmbeddingFunction:
        return PoolrtSparseEmbeddingFunction(**config)

    def get_config(self) -> dict[str, Any]:
        return {"artifact": self.artifact, "options": self.options}
