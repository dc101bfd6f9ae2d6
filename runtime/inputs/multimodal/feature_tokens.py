"""The tokens of a prompt that stand for features: found, put in, and kept where the prompt is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..media.medium import Medium
from ..truncation import Side
from . import fitting
from .contents import Kind
from .placeholders import Placeholders


class FeatureTokens:
    """Those of one model."""

    def __init__(self, tokenizer: Tokenizer, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._ids: dict[Kind, int] = {}
        for kind, token in placeholders.tokens.items():
            if (number := tokenizer.token_to_id(token)) is not None:
                self._ids[kind] = number
        self._added = np.array(sorted(tokenizer.get_added_tokens_decoder()), np.int64)

    def mask(self, ids: Sequence[int], media: Sequence[Medium]) -> NDArray[np.bool_]:
        """[tokens]: which stand for features of these media."""
        kinds = {medium.kind for medium in media}
        return np.isin(ids, [number for kind, number in self._ids.items() if kind in kinds])

    def expanded(
        self, ids: list[int], media: Sequence[Medium], name: str, tokens: Callable[[str], list[int]]
    ) -> tuple[list[int], list[Medium]]:
        """The ids with the k-th token of a kind replaced by the tokens of the k-th medium, and the media in
        that order. Without such a token the media come first, and ids that have all tokens stay as they are.
        Raises InputError for another number of tokens.

        Args:
            name: of the prompt, in errors.
            tokens: the ids of a text, without special tokens.
        """
        if int(self.mask(ids, media).sum()) == sum(medium.tokens for medium in media):
            return ids, list(media)
        kinds: dict[int, Kind] = {}
        for kind, number in self._ids.items():  # a token of both kinds is a picture
            kinds.setdefault(number, kind)
        present: dict[Kind, int] = {kind: ids.count(number) for number, kind in kinds.items()}
        if not any(present.values()):
            return [*tokens("".join(medium.text for medium in media)), *ids], list(media)
        wanted: dict[Kind, int] = {kind: sum(medium.kind == kind for medium in media) for kind in self._ids}
        self._placeholders.check(wanted, present, name)
        waiting = {kind: [medium for medium in media if medium.kind == kind] for kind in present}
        expanded: list[int] = []
        ordered: list[Medium] = []
        for number in ids:
            if number not in kinds:
                expanded.append(number)
                continue
            medium = waiting[kinds[number]].pop(0)
            ordered.append(medium)
            expanded += tokens(self._placeholders.core(medium))
        return expanded, ordered

    def shortened(
        self, ids: list[int], media: Sequence[Medium], kept: int, side: Side | None, own: Side, index: int
    ) -> list[int]:
        """The ids cut to `kept` tokens around the pictures. Raises InputError where these do not fit.

        Args:
            side: that the caller names, on which tokens of any kind are lost if no picture is among them.
            own: the model's, on which tokens of text are lost otherwise.
            index: of the prompt, in errors.
        """
        features = self.mask(ids, media)
        if side is not None:
            sliced = slice(len(ids) - kept, None) if side == "left" else slice(kept)
            if features[sliced].sum() == features.sum():
                return ids[sliced]
        fixed = features | np.isin(ids, self._added)
        return fitting.dropped(ids, fixed, kept, side or own, index)[0]


def feature_order(media: Sequence[Medium]) -> NDArray[np.int64] | None:
    """`Item.feature_order` of a prompt's media."""
    if all(medium.order is None for medium in media):
        return None
    starts = np.cumsum([0, *[medium.rows for medium in media]])
    return np.concatenate(
        [
            start + (np.arange(medium.rows) if medium.order is None else medium.order)
            for start, medium in zip(starts[:-1], media, strict=True)
        ]
    )
