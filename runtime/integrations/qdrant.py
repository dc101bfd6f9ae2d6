"""Qdrant: `PoolrtVectors` says how a collection stores an artifact's vectors (dense, sparse, and of every
token for late interaction), and makes its points and queries. `PoolrtRerank` ranks what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args
from uuid import uuid4

try:
    from qdrant_client import models
except ImportError as error:
    raise ImportError(
        "poolrt.runtime.integrations.qdrant needs qdrant-client: pip install 'poolrt[qdrant]'"
    ) from error

from .. import InputError
from ..answers.sparse import sparse_task
from . import opening

Kind = Literal["dense", "sparse", "late"]
"""Kinds of vectors, which are also the names under which a point stores them."""
Vector: TypeAlias = list[float] | list[list[float]] | models.SparseVector
TEXT = "text"
"""The payload's key of the text."""


class PoolrtVectors:
    """The vectors of an artifact in a collection, each kind under its name.

    Raises InputError for a kind that the model cannot make.

    Args:
        artifact: the artifact's folder.
        kinds: which vectors are stored; None: those by which the model itself compares texts. A bge-m3 has
            all three.
        dimensions: width to cut dense vectors to, of Matryoshka models.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        kinds: Sequence[Kind] | None = None,
        dimensions: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = opening.opened(artifact, options)
        self._dimensions = dimensions
        able = self._able()
        if kinds is None:
            own: Kind = "late" if self._model.manifest.scoring == "late-interaction" else "dense"
            kinds = [kind for kind in able if kind in (own, "sparse")]
        wrong = [kind for kind in kinds if kind not in able]
        if wrong or not kinds:
            raise InputError(
                f"{self._model.name} has no vectors of kind {', '.join(wrong) or 'dense, sparse or late'}; "
                f"it has {', '.join(able) or 'none, since it scores pairs of texts'}"
            )
        self.kinds: tuple[Kind, ...] = tuple(kinds)

    def _able(self) -> list[Kind]:
        tasks, task = self._model.tasks, sparse_task(self._model.manifest)
        has: dict[Kind, bool] = {
            "dense": "embed" in tasks and task != "embed",
            "sparse": task is not None,
            "late": "token_embed" in tasks,
        }
        return [kind for kind in get_args(Kind) if has[kind]]

    def vectors_config(self) -> dict[str, models.VectorParams]:
        """For `create_collection`: the kinds that have a width. Token vectors are compared by MaxSim, and
        have no graph of neighbours, because they rank what other vectors found."""
        heads = self._model.manifest.heads
        params: dict[str, models.VectorParams] = {}
        if "dense" in self.kinds:
            head = heads["embed"]
            width = self._dimensions or head.dimensions or head.dim
            params["dense"] = models.VectorParams(size=width, distance=models.Distance.COSINE)
        if "late" in self.kinds:
            head = heads["token_embed"]
            params["late"] = models.VectorParams(
                size=head.dimensions or head.dim,
                distance=models.Distance.COSINE if head.activation == "l2" else models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                hnsw_config=models.HnswConfigDiff(m=0) if len(self.kinds) > 1 else None,
            )
        return params

    def sparse_vectors_config(self) -> dict[str, models.SparseVectorParams]:
        """For `create_collection`: the sparse kind."""
        return {"sparse": models.SparseVectorParams()} if "sparse" in self.kinds else {}

    def points(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[int | str] | None = None,
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[models.PointStruct]:
        """Points for `upsert`, with all kinds of vectors, and the text in the payload.

        Args:
            ids: one for each text; None: random UUIDs.
            payloads: one for each text, beside it.
        """
        if ids is None:
            ids = [str(uuid4()) for _ in texts]
        if payloads is None:
            payloads = [{} for _ in texts]
        for name, values in (("ids", ids), ("payloads", payloads)):
            if len(values) != len(texts):
                raise InputError(f"{len(values)} {name} for {len(texts)} texts, expected as many")
        vectors = self._vectors(texts, "document")
        return [
            models.PointStruct(
                id=ids[place],
                vector={kind: rows[place] for kind, rows in vectors.items()},
                payload={TEXT: text, **payloads[place]},
            )
            for place, text in enumerate(texts)
        ]

    def query(self, text: str) -> dict[Kind, Vector]:
        """The vectors of a query: `query_points(name, query=vectors["dense"], using="dense")`."""
        return {kind: rows[0] for kind, rows in self._vectors([text], "query").items()}

    def _vectors(self, texts: Sequence[str], role: opening.Role) -> dict[Kind, Sequence[Vector]]:
        rows: dict[Kind, Sequence[Vector]] = {}
        if "dense" in self.kinds:
            rows["dense"] = opening.dense(self._model, texts, role, self._dimensions)
        if "sparse" in self.kinds:
            rows["sparse"] = [
                models.SparseVector(indices=indices, values=values)
                for indices, values in opening.sparse(self._model, texts, role)
            ]
        if "late" in self.kinds:
            rows["late"] = opening.late(self._model, texts, role)
        return rows


class PoolrtRerank:
    """Ranks the points that a query found: by a cross-encoder, by late interaction, or by cosine, as the
    artifact does.

    Args:
        artifact: the artifact's folder.
        key: the payload's key of the text.
        instruction: of models whose template has one; None: the model's own.
        options: keyword arguments of `poolrt.runtime.load`.
    """

    def __init__(
        self,
        artifact: str,
        *,
        key: str = TEXT,
        instruction: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = opening.opened(artifact, options)
        self._key = key
        self._instruction = instruction

    def rank(
        self, query: str, points: Sequence[models.ScoredPoint], *, top_n: int = 0
    ) -> list[models.ScoredPoint]:
        """Copies of the best points with their new scores; `top_n` 0: of all. Raises InputError for a point
        without the text, which `with_payload` of the query leaves in."""
        if not points:
            return []
        if missing := [point.id for point in points if self._key not in (point.payload or {})]:
            raise InputError(
                f"{len(missing)} points have no {self._key!r} in their payload, such as {missing[0]}"
            )
        texts = [str((point.payload or {})[self._key]) for point in points]
        ranking = opening.rank(self._model, query, texts, top_n, self._instruction)
        return [points[ranked.index].model_copy(update={"score": ranked.score}) for ranked in ranking]
