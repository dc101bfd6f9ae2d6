"""Haystack: embedders of texts and documents, dense and sparse, and `PoolrtRanker`, which is also the place
of late interaction. All run in pipelines, also asynchronous ones, and are stored with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.core.serialization import allow_deserialization_module
    from haystack.dataclasses import SparseEmbedding
except ImportError as error:
    raise ImportError(
        "poolrt.runtime.integrations.haystack needs haystack-ai: pip install 'poolrt[haystack]'"
    ) from error

from .. import InputError, Model, Ranking
from . import opening

# Haystack loads no classes of modules that it was not told to trust. Ours open artifacts, which hold no code.
allow_deserialization_module(__name__)


class _Component:
    """What the components share: an artifact that is opened once, before the first run, and their settings,
    which are stored with a pipeline."""

    artifact: str
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        # The arguments of the constructor are the public attributes.
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return default_to_dict(self, **settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        self._opened()

    def _opened(self) -> Model:
        model: Model | None = self.__dict__.get("_model")
        if model is None:
            model = self._model = opening.opened(self.artifact, self.options)
        return model


@component
class PoolrtTextEmbedder(_Component):
    """The vector of a query.

    Args:
        artifact: the artifact's folder.
        prefix: a text in front of the query, beside what the model's authors put there.
        suffix: a text behind it.
        dimensions: width to cut to, of Matryoshka models.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.artifact = artifact
        self.prefix = prefix
        self.suffix = suffix
        self.dimensions = dimensions
        self.options = options or {}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        model = self._opened()
        texts = [self.prefix + _text(text) + self.suffix]
        return _vector(model, opening.dense(model, texts, "query", self.dimensions))

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        model = self._opened()
        texts = [self.prefix + _text(text) + self.suffix]
        return _vector(model, await opening.adense(model, texts, "query", self.dimensions))


@component
class PoolrtDocumentEmbedder(_Component):
    """Documents with their vectors in `embedding`.

    Args:
        artifact: the artifact's folder.
        prefix: a text in front of each document, beside what the model's authors put there.
        suffix: a text behind it.
        meta_fields_to_embed: fields of the metadata whose values stand in front of the content.
        embedding_separator: between these.
        dimensions: width to cut to, of Matryoshka models.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        prefix: str = "",
        suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        dimensions: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.artifact = artifact
        self.prefix = prefix
        self.suffix = suffix
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.dimensions = dimensions
        self.options = options or {}

    def _texts(self, documents: list[Document]) -> list[str]:
        texts = _contents(documents, self.meta_fields_to_embed, self.embedding_separator)
        return [self.prefix + text + self.suffix for text in texts]

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        model = self._opened()
        vectors = opening.dense(model, self._texts(documents), "document", self.dimensions)
        return _embedded(model, documents, vectors)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        model = self._opened()
        vectors = await opening.adense(model, self._texts(documents), "document", self.dimensions)
        return _embedded(model, documents, vectors)


@component
class PoolrtSparseTextEmbedder(_Component):
    """The sparse vector of a query, of SPLADE models and bge-m3.

    Args:
        artifact: the artifact's folder.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(self, artifact: str, *, options: dict[str, Any] | None = None) -> None:
        self.artifact = artifact
        self.options = options or {}

    @component.output_types(sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, Any]:
        rows = opening.sparse(self._opened(), [_text(text)], "query")
        return {"sparse_embedding": SparseEmbedding(*rows[0])}

    @component.output_types(sparse_embedding=SparseEmbedding)
    async def run_async(self, text: str) -> dict[str, Any]:
        rows = await opening.asparse(self._opened(), [_text(text)], "query")
        return {"sparse_embedding": SparseEmbedding(*rows[0])}


@component
class PoolrtSparseDocumentEmbedder(_Component):
    """Documents with their sparse vectors in `sparse_embedding`, of SPLADE models and bge-m3.

    Args:
        artifact: the artifact's folder.
        meta_fields_to_embed: fields of the metadata whose values stand in front of the content.
        embedding_separator: between these.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.artifact = artifact
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.options = options or {}

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        texts = _contents(documents, self.meta_fields_to_embed, self.embedding_separator)
        return _sparsely(documents, opening.sparse(self._opened(), texts, "document"))

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        texts = _contents(documents, self.meta_fields_to_embed, self.embedding_separator)
        return _sparsely(documents, await opening.asparse(self._opened(), texts, "document"))


@component
class PoolrtRanker(_Component):
    """The best documents with their scores: by a cross-encoder, by late interaction (ColBERT), or by cosine,
    as the artifact does.

    Args:
        artifact: the artifact's folder.
        top_k: how many documents are returned.
        score_threshold: documents below it are left out; None: none is.
        meta_fields_to_embed: fields of the metadata whose values stand in front of the content.
        embedding_separator: between these.
        instruction: of models whose template has one; None: the model's own.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        top_k: int = 10,
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        instruction: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.artifact = artifact
        self.top_k = _positive(top_k)
        self.score_threshold = score_threshold
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.instruction = instruction
        self.options = options or {}

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        most = self.top_k if top_k is None else _positive(top_k)
        if not documents:
            return {"documents": []}
        texts = _contents(documents, self.meta_fields_to_embed, self.embedding_separator)
        ranking = opening.rank(self._opened(), query, texts, most, self.instruction)
        return self._ranked(documents, ranking, score_threshold)

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        most = self.top_k if top_k is None else _positive(top_k)
        if not documents:
            return {"documents": []}
        texts = _contents(documents, self.meta_fields_to_embed, self.embedding_separator)
        ranking = await opening.arank(self._opened(), query, texts, most, self.instruction)
        return self._ranked(documents, ranking, score_threshold)

    def _ranked(
        self, documents: list[Document], ranking: Ranking, score_threshold: float | None
    ) -> dict[str, Any]:
        least = self.score_threshold if score_threshold is None else score_threshold
        ranked = [replace(documents[place.index], score=place.score) for place in ranking]
        if least is not None:
            ranked = [
                document for document in ranked if document.score is not None and document.score >= least
            ]
        return {"documents": ranked}


def _text(text: object) -> str:
    """Raises InputError for what is no text, such as the documents of a pipeline that is joined wrongly."""
    if not isinstance(text, str):
        raise InputError(
            f"a text is expected, found {type(text).__name__}; documents go to PoolrtDocumentEmbedder"
        )
    return text


def _positive(top_k: int) -> int:
    if top_k <= 0:
        raise InputError(f"top_k is {top_k}, expected 1 or more")
    return top_k


def _contents(documents: object, fields: Sequence[str], separator: str) -> list[str]:
    """The text of each document, behind fields of its metadata. Raises InputError for what is no document."""
    if not isinstance(documents, list) or not all(isinstance(item, Document) for item in documents):
        raise InputError("a list of documents is expected; a text goes to PoolrtTextEmbedder")
    return [
        separator.join(
            [
                *(str(value) for field in fields if (value := document.meta.get(field)) is not None),
                document.content or "",
            ]
        )
        for document in documents
    ]


def _vector(model: Model, vectors: list[list[float]]) -> dict[str, Any]:
    return {"embedding": vectors[0], "meta": {"model": model.name}}


def _embedded(model: Model, documents: list[Document], vectors: list[list[float]]) -> dict[str, Any]:
    embedded = [
        replace(document, embedding=vector) for document, vector in zip(documents, vectors, strict=True)
    ]
    return {"documents": embedded, "meta": {"model": model.name}}


def _sparsely(documents: list[Document], rows: list[tuple[list[int], list[float]]]) -> dict[str, Any]:
    embedded = [
        replace(document, sparse_embedding=SparseEmbedding(*row))
        for document, row in zip(documents, rows, strict=True)
    ]
    return {"documents": embedded}
