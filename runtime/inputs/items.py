"""One tokenised input, how long it may be, and in whose style it is prepared."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .truncation import Side

Style = Literal["model", "vllm"]
"""Text as the model's own library prepares it, or as vLLM does."""

# The kind of a token for its graph: of a text, of a prompt that is not pooled, or of a text that is read as a
# bag of words.
PLAIN, PROMPT, STATIC = 0, 1, 2


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens in front of several items, computed once for all of them."""

    tokens: int
    """How many."""
    past: NDArray[np.float32] | None = None
    """[2 x layers, heads, tokens, width]: their keys and values. None: not computed yet."""


@dataclass(slots=True)
class Item:
    """One tokenised input, not padded."""

    ids: list[int]
    """All of them, those of a prefix included."""
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
    features: NDArray[np.float32] | None = None
    """[features, width]: what the vision graph computed of this prompt's pictures, in the order of the tokens
    that stand for them. None: no pictures."""
    feature_places: NDArray[np.int64] | None = None
    """[features]: the tokens that stand for `features`."""
    positions: NDArray[np.int64] | None = None
    """[3, tokens]: positions in time, height and width (multimodal rotary). None:
    0, 1, 2, ... in all three."""
    vision: tuple[VisionItem, ...] = ()
    """What the vision graph computes first; where a picture is embedded apart, its one row is the result."""
    feature_order: NDArray[np.int64] | None = None
    """[features]: the row of what `vision` computes, one behind the other, that becomes each of `features`.
    None: all rows, in their order."""
    prefix: Prefix | None = None
    """The first of its tokens, which are not computed again. None: it is computed whole."""
    cached: int = 0
    """Tokens that were not computed for it."""
    returns_past: bool = False
    """Whether it is itself a prefix, whose keys and values are the result."""

    @property
    def start(self) -> int:
        """The first token that is computed."""
        return 0 if self.prefix is None else self.prefix.tokens

    @property
    def cost(self) -> int:
        """The work of computing it, in tokens. The queue admits, orders and batches items by it."""
        return len(self.ids) - self.start

    @property
    def rows(self) -> int:
        """Rows that belong to it in an output with one row per token."""
        return len(self.ids)

    @property
    def key(self) -> bytes | None:
        """The same for two items exactly if a graph computes the same of both; None for an item with
        pictures, and for a prefix."""
        if self.vision or self.features is not None or self.returns_past:
            return None
        columns = (self.ids, self.type_ids, self.attention, self.kinds)
        return b"|".join(b"" if column is None else array("q", column).tobytes() for column in columns)


@dataclass(slots=True)
class VisionItem:
    """One row of the vision graph: a picture of fixed size, a tile, or the patches of a picture or of one
    group of a video's frames."""

    arrays: dict[str, NDArray[Any]]
    """Graph input -> its values, without the batch axis. `patch_mask` may be left out: all patches count."""
    rows: int
    """Rows of features that the graph computes for it; 1 where it computes an embedding."""
    cost: int
    """The work of computing it, in patches."""
    digest: bytes = b""
    """Of everything that decides its features; the key of the cache of features."""
    features: NDArray[np.float32] | None = None
    """[rows, width]: known already, so that the graph need not run. None: to be computed."""

    @property
    def key(self) -> bytes | None:
        """None: equal pictures are found by their digest, before they are queued."""
        return None


Steps = Iterable[Mapping[int, Item]]
"""Items of one call by their index, in steps that are prepared one after the other."""


def filled(items: list[Item], steps: Steps) -> Iterator[Mapping[int, Item]]:
    """Yields the steps, and puts their items into their places in `items` on the way."""
    for step in steps:
        for index, item in step.items():
            items[index] = item
        yield step


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
