"""One tokenised input, how long it may be, and in whose style it is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .truncation import Side

Style = Literal["model", "vllm"]
"""Text as the model's own library prepares it, or as vLLM does."""

# The kind of a token for its graph: of a text, of a prompt that is not pooled, or of a text that is read as a
# bag of words.
PLAIN, PROMPT, STATIC = 0, 1, 2


@dataclass(slots=True)
class Item:
    """One tokenised input, not padded."""

    ids: list[int]
    type_ids: list[int] | None = None
    """None: zeros."""
    attention: list[int] | None = None
    """None: ones. Zeros are expansion tokens, which are not attended to. Unlike padding, their rows are
    returned."""
    truncated: bool = False
    prompt_tokens: int = 0
    """The count that usage reports."""
    kinds: list[int] | None = None
    """Of PLAIN, PROMPT, STATIC; None: all plain. For graphs that have the input `token_kinds`."""
    keep: NDArray[np.bool_] | None = None
    """[tokens]: which rows of a token task's output are returned (ColBERT's skip list). None: all."""

    @property
    def cost(self) -> int:
        """The work of computing it, in tokens. The queue admits, orders and batches items by it."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How long an item may be."""

    truncate_prompt_tokens: int | None = None
    """None: a longer text is an error; -1: cut to the limit; k: cut to k tokens, special tokens included."""
    truncation_side: Side | None = None
    """None: text is cut on the tokenizer's own side, and special tokens stay. Set: the list of all ids is
    sliced, so special tokens of that side are lost."""
    max_tokens: int | None = None
    """A lower limit than the model's own; None: the model's."""
    cut_document: bool = False
    """Pairs: only the document is shortened. The query and a template around both stay whole."""
