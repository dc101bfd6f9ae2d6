"""One tokenised input, and how a caller wants it: how long it may be, in whose style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .truncation import Side

Style = Literal["model", "vllm"]
"""Text as the model's own library prepares it, or as vLLM does."""

# What a token is to its graph: part of a text, of a prompt that is not pooled with it, or of a text
# that is a bag of words.
PLAIN, PROMPT, STATIC = 0, 1, 2


@dataclass(slots=True)
class Item:
    """One tokenised input, not padded."""

    ids: list[int]
    type_ids: list[int] | None = None
    """None: zeros."""
    attention: list[int] | None = None
    """None: ones. Zeros inside an item are expansion tokens: not attended to, but their rows are
    answered (padding's are not)."""
    truncated: bool = False
    prompt_tokens: int = 0
    """What usage reports."""
    kinds: list[int] | None = None
    """Of PLAIN, PROMPT, STATIC; None: all plain. For graphs that have the input `token_kinds`."""
    keep: NDArray[np.bool_] | None = None
    """[tokens]; rows of a token task's output that are answered (ColBERT's skip list). None: all."""

    @property
    def cost(self) -> int:
        """What computing it costs, in tokens of work: the queue admits, orders and batches by it."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How long an item may be."""

    truncate_prompt_tokens: int | None = None
    """None: a longer text is an error; -1: cut to the limit; k: cut to k tokens, special tokens included."""
    truncation_side: Side | None = None
    """None: cut on the tokenizer's own side, special tokens kept. Set: the full id list is sliced, special
    tokens of that side are lost."""
    max_tokens: int | None = None
    """A lower limit than the model's own."""
    cut_document: bool = False
    """Score pairs: only the document is shortened, the query and the template around both stay whole."""
