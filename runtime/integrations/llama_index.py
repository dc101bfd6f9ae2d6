"""LlamaIndex: `PoolrtEmbedding` for indices, and `PoolrtRerank`, a postprocessor of the nodes that a
retriever found, which is also the place of late interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise ImportError(
        "poolrt.runtime.integrations.llama_index needs llama-index-core: pip install 'poolrt[llama-index]'"
    ) from error

from .. import InputError, Model, Ranking
from . import opening

BATCH = 256
"""Texts that LlamaIndex hands over together. The runtime makes batches of its own; many texts make good
ones."""


class PoolrtEmbedding(BaseEmbedding):
    """Vectors of an artifact; queries and documents are prepared as the model's authors do."""

    artifact: str = Field(description="the artifact's folder")
    dimensions: int | None = Field(default=None, description="width to cut to, of Matryoshka models")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of poolrt.runtime.load"
    )
    _model: Model = PrivateAttr()

    def __init__(self, artifact: str, **fields: Any) -> None:
        """`fields` are the others of this class and of BaseEmbedding."""
        defaults: dict[str, Any] = {"model_name": Path(artifact).name, "embed_batch_size": BATCH}
        values: dict[str, Any] = defaults | fields | {"artifact": artifact}
        super().__init__(**values)
        self._model = opening.opened(self.artifact, self.options)

    @classmethod
    def class_name(cls) -> str:
        return "PoolrtEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return opening.dense(self._model, [query], "query", self.dimensions)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await opening.adense(self._model, [query], "query", self.dimensions))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return opening.dense(self._model, texts, "document", self.dimensions)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await opening.adense(self._model, texts, "document", self.dimensions)


class PoolrtRerank(BaseNodePostprocessor):
    """The best nodes with their scores: by a cross-encoder, by late interaction (ColBERT), or by cosine, as
    the artifact does."""

    artifact: str = Field(description="the artifact's folder")
    top_n: int = Field(default=5, ge=0, description="how many nodes are returned; 0: all")
    instruction: str | None = Field(
        default=None, description="of models whose template has one; None: the model's own"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of poolrt.runtime.load"
    )
    _model: Model = PrivateAttr()

    def __init__(self, artifact: str, **fields: Any) -> None:
        """`fields` are the others of this class and of BaseNodePostprocessor."""
        values: dict[str, Any] = fields | {"artifact": artifact}
        super().__init__(**values)
        self._model = opening.opened(self.artifact, self.options)

    @classmethod
    def class_name(cls) -> str:
        return "PoolrtRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        query = text_of(query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
            ranked = scored(
                nodes, opening.rank(self._model, query, texts_of(nodes), self.top_n, self.instruction)
            )
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        query = text_of(query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
            ranking = await opening.arank(self._model, query, texts_of(nodes), self.top_n, self.instruction)
            ranked = scored(nodes, ranking)
            event.on_end(payload={EventPayload.NODES: ranked})
        return ranked

    def _payload(self, nodes: list[NodeWithScore], query: str) -> dict[str, Any]:
        return {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._model.name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }


def text_of(query: QueryBundle | None) -> str:
    """Raises InputError where there is no query."""
    if query is None:
        raise InputError("a reranker needs the query: give query_str or query_bundle")
    return query.query_str


def texts_of(nodes: list[NodeWithScore]) -> list[str]:
    """The texts as LlamaIndex embeds them."""
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def scored(nodes: list[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
    """The ranked nodes with their new scores."""
    return [NodeWithScore(node=nodes[ranked.index].node, score=ranked.score) for ranked in ranking]
