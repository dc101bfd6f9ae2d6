"""LangChain: `PoolrtEmbeddings` for vector stores, and `PoolrtRerank`, a compressor of what a retriever
found, which is also the place of late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise ImportError(
        "poolrt.runtime.integrations.langchain needs langchain-core: pip install 'poolrt[langchain]'"
    ) from error
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from .. import Model, Ranking
from . import opening


class PoolrtEmbeddings(BaseModel, Embeddings):
    """Vectors of an artifact; queries and documents are prepared as the model's authors do."""

    model_config = ConfigDict(extra="forbid")

    artifact: str
    """The artifact's folder."""
    dimensions: int | None = None
    """Width to cut vectors to, of Matryoshka models."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `poolrt.runtime.load`, such as `engine` and `threads`."""
    _model: Model = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        self._model = opening.opened(self.artifact, self.options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return opening.dense(self._model, texts, "document", self.dimensions)

    def embed_query(self, text: str) -> list[float]:
        return opening.dense(self._model, [text], "query", self.dimensions)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await opening.adense(self._model, texts, "document", self.dimensions)

    async def aembed_query(self, text: str) -> list[float]:
        return (await opening.adense(self._model, [text], "query", self.dimensions))[0]


class PoolrtRerank(BaseDocumentCompressor):
    """The best documents of a retriever, with their score in the metadata's `relevance_score`: by a
    cross-encoder, by late interaction (ColBERT), or by cosine, as the artifact does."""

    model_config = ConfigDict(extra="forbid")

    artifact: str
    """The artifact's folder."""
    top_n: int = 3
    """How many documents are returned; 0: all."""
    instruction: str | None = None
    """The instruction of models whose template has one; None: the model's own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `poolrt.runtime.load`."""
    _model: Model = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        self._model = opening.opened(self.artifact, self.options)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        return scored(documents, opening.rank(self._model, query, texts, self.top_n, self.instruction))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        ranking = await opening.arank(self._model, query, texts, self.top_n, self.instruction)
        return scored(documents, ranking)


def scored(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Copies of the ranked documents, with their scores."""
    return [
        document.model_copy(update={"metadata": document.metadata | {"relevance_score": ranked.score}})
        for ranked in ranking
        for document in [documents[ranked.index]]
    ]
