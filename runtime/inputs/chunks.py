"""Texts beyond the model's limit, embedded in pieces (vLLM's enable_chunked_processing).

Each piece is an input of its own, pooling and activation included. The result is the mean of the pieces,
weighted by their lengths and not normalised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..artifact.manifest import Manifest
from ..errors import InputError
from ..outputs import Floats
from .items import Item, TokenLimits

UNLIMITED = 1 << 62


def limits(manifest: Manifest, requested: TokenLimits) -> TokenLimits:
    """The requested limits without a longest text. A positive truncation up to the model's own limit still
    cuts. Raises InputError for one beyond it."""
    cut, most = requested.truncate_prompt_tokens, manifest.text.max_tokens
    if cut is not None and cut > most:
        raise InputError(
            "truncate_prompt_tokens value is greater than max_model_len. Please request a "
            "smaller truncation size.",
            field="truncate_prompt_tokens",
        )
    return replace(requested, truncate_prompt_tokens=None if cut == -1 else cut, max_tokens=UNLIMITED)


def cut(items: Sequence[Item], max_tokens: int) -> list[list[Item]]:
    """Each item as consecutive pieces of at most `max_tokens` tokens."""
    return [
        [item]
        if len(item.ids) <= max_tokens
        else [
            Item(
                ids=item.ids[start : start + max_tokens],
                type_ids=item.type_ids[start : start + max_tokens] if item.type_ids else None,
                kinds=item.kinds[start : start + max_tokens] if item.kinds else None,
            )
            for start in range(0, len(item.ids), max_tokens)
        ]
        for item in items
    ]


def joined(arrays: Sequence[Floats], pieces: Sequence[Sequence[Item]]) -> list[Floats]:
    """One [dim] per item: Σ(vector · length) / Σ length over its pieces. `arrays` holds a [dim] per piece,
    item after item."""
    means, place = [], 0
    for group in pieces:
        vectors = np.stack(arrays[place : place + len(group)])
        place += len(group)
        weights = np.array([len(piece.ids) for piece in group], dtype=np.float32)
        means.append(
            vectors[0] if len(group) == 1 else (vectors * weights[:, None]).sum(axis=0) / weights.sum()
        )
    return means
