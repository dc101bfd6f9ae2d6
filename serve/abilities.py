"""Which of the models' routes a server has: a route that no served model can answer is not there, as on a vLLM without it."""

from __future__ import annotations

from collections.abc import Callable

from .registry import Registry, Served

Claim = Callable[[Served], bool]


def _can(task: str) -> Claim:
    return lambda served: served.can(task)


def _sparse(served: Served) -> bool:
    return any(head.sparse and served.can(task) for task, head in served.manifest.heads.items())


def _scores(served: Served) -> bool:
    return served.scores


CLAIMS: dict[str, Claim] = {
    "/v1/embeddings": _can("embed"), "/embeddings": _can("embed"), "/v2/embed": _can("embed"), "/v1/embed": _can("embed"),
    "/pooling": lambda served: True, "/classify": _can("classify"), "/score": _scores, "/v1/score": _scores, "/rerank": _scores,
    "/v1/rerank": _scores, "/v2/rerank": _scores, "/embed": _can("embed"), "/embed_all": _can("token_embed"), "/embed_sparse": _sparse,
    "/predict": _can("classify"), "/similarity": _can("embed"),
}  # fmt: skip


def absent(path: str, registry: Registry) -> str:
    """Why a path of `CLAIMS` answers 404, and what to ask instead."""
    if not registry.ready.is_set():
        return f"{path} is not there"
    models = ", ".join(f"`{served.name}` can {' and '.join(served.model.tasks)}" for served in registry.models[:5])
    there = ", ".join(other for other, claim in CLAIMS.items() if registry.any(claim))
    return f"no model served here can answer {path}: {models}. This server has {there}"
