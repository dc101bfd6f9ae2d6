"""From the raw rows of a graph to what a task returns: dropped, cut, calibrated and activated, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Activation, Head, Manifest, Task
from ..errors import EngineError
from ..inputs.items import Item
from ..outputs import Floats
from . import scoring
from .params import PoolingParams

COMBINED = "embed&token_classify"
"""vLLM's task of bge-m3: the embedding followed by the tokens' weights, [dim + tokens], from one pass."""


def combines(manifest: Manifest) -> bool:
    """Whether a model has the combined task: an embedding, and one weight per token."""
    return (
        "embed" in manifest.tasks
        and "token_classify" in manifest.tasks
        and manifest.heads["token_classify"].flat
    )


def answers(
    task: Task, head: Head, rows: Sequence[Floats], items: Sequence[Item], params: Sequence[PoolingParams]
) -> list[Floats]:
    """Returns one float32 array per item: [dim] or [labels], for token tasks [tokens, dim] or [tokens,
    labels]. Raises EngineError for numbers that are not finite.

    Args:
        rows: one per item, from the graph's output: [width], for token tasks [tokens, width].
        params: one per item.
    """
    if task in ("embed", "classify") and len(rows) > 1 and all(own is params[0] for own in params):
        # The common case is computed as one array.
        return list(_finite(_finished(task, head, np.stack(rows), params[0])))
    pooled = task in ("embed", "classify")
    return [
        _finite(_finished(task, head, row if pooled else _kept(head, row, item, own), own))
        for row, item, own in zip(rows, items, params, strict=True)
    ]


def without_ends(head: Head, ids: Sequence[int] | NDArray[np.integer]) -> slice:
    """Returns the rows that are left when the head has dropped those of the special tokens at both ends. A
    text that came as ids, or was cut from one side, may lack these tokens; then nothing is dropped there."""
    first, last = head.drop_first, head.drop_last
    if len(ids) and head.drop_first_id is not None and ids[0] != head.drop_first_id:
        first = 0
    if len(ids) and head.drop_last_id is not None and ids[-1] != head.drop_last_id:
        last = 0
    return slice(first, max(len(ids) - last, first))


def kept_tokens(head: Head, item: Item) -> NDArray[np.bool_]:
    """Returns which tokens of an item have a row in the output of a head that pools no steps. [tokens]"""
    chosen = np.ones(len(item.ids), dtype=bool) if item.keep is None else np.array(item.keep)
    inside = without_ends(head, item.ids)
    chosen[: inside.start] = False
    chosen[inside.stop :] = False
    return chosen


def _kept(head: Head, row: Floats, item: Item, params: PoolingParams) -> Floats:
    """The token rows that are returned, and the columns of heads that pool steps."""
    chosen = kept_tokens(head, item)
    if head.pool == "step":
        tag = head.step_tag_id if params.step_tag_id is None else params.step_tag_id
        columns = head.returned_token_ids if params.returned_token_ids is None else params.returned_token_ids
        if tag is not None:
            chosen &= np.asarray(item.ids) == tag
        if len(columns):
            row = row[:, list(columns)]
    if head.keep_ids:
        ids = np.asarray(item.ids)
        return np.concatenate([row[chosen & (ids == token)] for token in head.keep_ids])
    return row[chosen]


def _finished(task: Task, head: Head, array: Floats, params: PoolingParams) -> Floats:
    dimensions = head.dimensions if params.dimensions is None else params.dimensions
    if head.norm_before_cut and dimensions is not None:
        array = _layer_norm(array)
    if dimensions is not None:
        array = array[..., :dimensions]
    array = scoring.calibrate(array, head.logit_mean, head.logit_sigma)
    array = scoring.activate(_activation(task, head, params), array)
    return array[..., 0] if head.flat and task == "token_classify" and array.shape[-1] == 1 else array


def _activation(task: Task, head: Head, params: PoolingParams) -> Activation:
    if params.use_activation is False:
        return "identity"
    # A checkpoint without a Normalize module is normalised only on request, and then always by L2.
    if params.use_activation and task in ("embed", "token_embed") and head.activation == "identity":
        return "l2"
    if params.use_activation and head.asked_activation is not None:
        return head.asked_activation
    return head.activation


def _layer_norm(array: Floats) -> Floats:
    """torch.nn.functional.layer_norm without weights, eps 1e-5, as nomic-embed-text-v1.5's card has it
    before a vector is cut."""
    centred = array - array.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))


def _finite(array: Floats) -> Floats:
    if not np.isfinite(array).all():
        raise EngineError(
            "the engine answered something that is not a number; verify the artifact with `poolrt verify`"
        )
    return np.ascontiguousarray(array, dtype=np.float32)
