"""Texts beyond the model's limit, embedded in pieces (vLLM's enable_chunked_processing).

Each piece runs as its own input, pooling and activation included; the answer is their mean weighted by
length, not normalised again.
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


def limits(manifest: Manifest, asked: TokenLimits) -> TokenLimits:
    """No limit of length; only a positive truncation that the model itself could follow still cuts."""
    cut, most = asked.truncate_prompt_tokens, manifest.text.max_tokens
    if cut is not None and cut > most:
        raise InputError(
            "truncate_prompt_tokens value is greater than max_model_len. Please request a "
            "smaller truncation size.",
            field="truncate_prompt_tokens",
        )
    return replace(asked, truncate_prompt_tokens=None if cut == -1 else cut, max_tokens=UNLIMITED)


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
    """[dim] per item: Σ(vector · length) / Σ length over its pieces."""
    made, place = [], 0
    for group in pieces:
        vectors = np.stack(arrays[place : place + len(group)])
        place += len(group)
        weights = np.array([len(piece.ids) for piece in group], dtype=np.float32)
        made.append(
            vectors[0] if len(group) == 1 else (vectors * weights[:, None]).sum(axis=0) / weights.sum()
        )
    return made
