"""ColBERT's two sides as their own libraries prepare them (Stanford colbert-ai, PyLate,
sentence-transformers' MultiVectorEncoder).

A marker token is inserted after the first token, and queries are filled up with an expansion token. Vectors
of skipped tokens (punctuation of documents) are dropped after encoding, so these tokens still influence their
neighbours.
"""

from __future__ import annotations

import numpy as np

from ..artifact.manifest import Role
from .items import Item


def apply(role: Role, item: Item) -> Item:
    """Changes a plain item into one of the role, in place. `prompt_tokens` counts the marker, not the
    expansion."""
    if role.marker_id is not None:
        item.ids = [*item.ids[:1], role.marker_id, *item.ids[1:]]
        item.prompt_tokens = len(item.ids)
    full = role.max_tokens if role.expand_to is None else role.expand_to
    if role.expand_id is not None and full is not None and (missing := full - len(item.ids)) > 0:
        item.attention = [1] * len(item.ids) + [int(role.attend_expansion)] * missing
        item.ids = item.ids + [role.expand_id] * missing
    if role.skip_ids:
        keep = ~np.isin(item.ids, role.skip_ids)
        item.keep = None if keep.all() else keep
    return item
