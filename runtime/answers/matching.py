"""A query and a document of late interaction, token by token: what their score is the sum of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Manifest
from ..batching.queue import Answer
from ..errors import UnsupportedTask
from ..inputs.items import Item, Steps
from ..inputs.preparation import Preparation
from ..outputs import Match
from . import pair_scores, postprocess
from .params import PoolingParams
from .score_request import ScoreRequest, Side


@dataclass(frozen=True, slots=True)
class PreparedMatch:
    """Two items to compute, the query and the document, and the function that compares their rows."""

    steps: Steps
    """Preparing them; it must have ended before `finish` is called."""
    finish: Callable[[Answer], Match]


def prepare(
    manifest: Manifest, preparation: Preparation, query: Side, document: Side, request: ScoreRequest
) -> PreparedMatch:
    """Tokenises one pair as a score does. Raises InputError, and UnsupportedTask for a model without late
    interaction."""
    if manifest.scoring != "late-interaction":
        raise UnsupportedTask(
            f"only a model with late interaction compares token by token; this one is a {manifest.scoring}",
            field=None,
        )
    items, steps = pair_scores.items_apart(manifest, preparation, [query], [document], request)
    head = manifest.heads["token_embed"]

    def finish(answer: Answer) -> Match:
        rows = postprocess.answers("token_embed", head, answer.rows, items, [PoolingParams()] * 2)
        kept = [np.flatnonzero(postprocess.kept_tokens(head, item)) for item in items]
        query_ids, document_ids = (
            [item.ids[token] for token in tokens] for item, tokens in zip(items, kept, strict=True)
        )
        return Match(rows[0] @ rows[1].T, query_ids, document_ids, _places(items[1], kept[1]))

    return PreparedMatch(steps, finish)


def _places(item: Item, kept: NDArray[np.intp]) -> NDArray[np.int64]:
    """[features]: the number of each feature's token among the tokens that were kept; -1: it was not."""
    numbers = np.full(len(item.ids), -1, np.int64)
    numbers[kept] = np.arange(len(kept))
    return numbers[[] if item.feature_places is None else item.feature_places]
