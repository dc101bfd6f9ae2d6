"""Opens artifacts for the other modules, and asks models for the vectors that libraries store.

Texts that are longer than a model reads are cut, as sentence-transformers cuts them. The functions that are
coroutines prepare their texts in a thread, and leave the queue when their task is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from .. import InputError, Model, Outputs, PoolingParams, Ranking, UnsupportedTask, load
from ..answers.sparse import sparse_task, token_weights
from ..batching.pending import Pending

Result = TypeVar("Result")

Role = Literal["query", "document"]
WHOLE: dict[str, Any] = {"truncate_prompt_tokens": -1}
"""Texts are cut to what the model reads."""

_models: weakref.WeakValueDictionary[tuple[str, str], Model] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def opened(artifact: str | Path, options: Mapping[str, Any] | None = None) -> Model:
    """The model of an artifact. Components that name the same one with the same options share it, while any
    of them lives. Raises what `load` raises, and InputError for options that cannot be stored as JSON.

    Args:
        options: keyword arguments of `load`, such as `engine` and `threads`.
    """
    try:
        key = str(Path(artifact).resolve()), json.dumps(dict(options or {}), sort_keys=True)
    except TypeError as error:
        raise InputError(f"options are stored with the component, so must be JSON: {error}") from None
    with _lock:
        if (model := _models.get(key)) is None:
            model = _models[key] = load(artifact, **(options or {}))
        return model


async def finished(pending: Pending[Result]) -> Result:
    """The result of a started call, which is cancelled with the task that awaits it. Raises what
    `Pending.result` raises."""
    answer = await asyncio.wrap_future(pending.future)
    return await asyncio.to_thread(pending.finish, answer)


def dense(model: Model, texts: Sequence[str], role: Role, dimensions: int | None) -> list[list[float]]:
    """One vector for each text. Raises what `Model.embed` raises."""
    if not texts:
        return []
    params = PoolingParams(dimensions=dimensions)
    return np.asarray(model.embed(list(texts), role=role, pooling_params=params, **WHOLE)).tolist()


async def adense(model: Model, texts: Sequence[str], role: Role, dimensions: int | None) -> list[list[float]]:
    """`dense`, awaited."""
    if not texts:
        return []
    params = PoolingParams(dimensions=dimensions)
    pending = await asyncio.to_thread(
        model.start, list(texts), params, pooling_task="embed", role=role, **WHOLE
    )
    return np.asarray(await finished(pending)).tolist()


def late(model: Model, texts: Sequence[str], role: Role) -> list[list[list[float]]]:
    """A vector for each token of each text, for late interaction. Raises what `Model.token_embed` raises."""
    if not texts:
        return []
    return [
        output.outputs.data.tolist() for output in model.token_embed(list(texts), role=role, **WHOLE).requests
    ]


def sparse(model: Model, texts: Sequence[str], role: Role) -> list[tuple[list[int], list[float]]]:
    """Token ids, rising, and their weights, for each text. Raises UnsupportedTask for a model that has no
    sparse head, and what `Model.encode` raises."""
    if not texts:
        return []
    task = _sparse_task(model)
    return _weights(model, model.encode(list(texts), pooling_task=task, role=role, **WHOLE))


async def asparse(model: Model, texts: Sequence[str], role: Role) -> list[tuple[list[int], list[float]]]:
    """`sparse`, awaited."""
    if not texts:
        return []
    task = _sparse_task(model)
    pending = await asyncio.to_thread(model.start, list(texts), pooling_task=task, role=role, **WHOLE)
    return _weights(model, await finished(pending))


def _sparse_task(model: Model) -> str:
    if (task := sparse_task(model.manifest)) is None:
        raise UnsupportedTask(f"{model.name} has no sparse vectors; SPLADE and bge-m3 have")
    return task


def _weights(model: Model, outputs: Outputs[Any]) -> list[tuple[list[int], list[float]]]:
    head, encoder = model.manifest.heads[_sparse_task(model)], model.preparation.encoder
    rows = [sorted(token_weights(output, head, encoder).items()) for output in outputs.requests]
    return [([token for token, _ in row], [weight for _, weight in row]) for row in rows]


def rank(model: Model, query: str, texts: Sequence[str], top_n: int, instruction: str | None) -> Ranking:
    """The texts by falling score: of a cross-encoder, by late interaction, or by cosine, as the model does.
    Documents are cut, queries are not. Raises what `Model.rerank` raises.

    Args:
        top_n: how many are returned; 0: all.
    """
    return model.rerank(query, list(texts), top_n=top_n, instruction=instruction, cut_document=True, **WHOLE)


async def arank(
    model: Model, query: str, texts: Sequence[str], top_n: int, instruction: str | None
) -> Ranking:
    """`rank`, awaited."""
    options = {"top_n": top_n, "instruction": instruction, "cut_document": True, **WHOLE}
    return await finished(await asyncio.to_thread(model.start_rerank, query, list(texts), **options))
