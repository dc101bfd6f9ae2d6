"""Cuts the text of a prompt with pictures. Its pictures, and what a template puts around it, stay whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .. import truncation
from ..encoder import Encoder
from ..truncation import Side


def too_large(needed: int, kept: int, index: int) -> InputError:
    """The error for pictures that do not fit."""
    return InputError(
        f"input {index}: its pictures and what stands around them need {needed} tokens, and {kept} are "
        "kept. Please reduce the length of the input prompt: send fewer or smaller pictures, or lower "
        "max_pixels in mm_processor_kwargs.",
        field="input_tokens",
    )


def dropped(
    ids: list[int], fixed: NDArray[np.bool_], kept: int, side: Side, index: int
) -> tuple[list[int], NDArray[np.intp]]:
    """`kept` of the ids, and the places they had. Tokens of text are lost on one side; the others stay.
    Raises InputError where those are too many.

    Args:
        fixed: [tokens]: which tokens stay: of pictures, and special ones.
    """
    loose = np.flatnonzero(~fixed)
    over = len(ids) - kept
    if over > len(loose):
        raise too_large(int(fixed.sum()), kept, index)
    staying = np.ones(len(ids), bool)
    staying[loose[:over] if side == "left" else loose[len(loose) - over :]] = False
    places = np.flatnonzero(staying)
    return [ids[place] for place in places.tolist()], places


def fitted(
    encoder: Encoder, tokens: Callable[[str], list[int]], text: str, kept: int, side: Side, index: int
) -> list[int]:
    """The ids of a prompt with as much of its text as fits into `kept` tokens. Raises InputError where the
    rest alone does not fit.

    Args:
        tokens: the ids of the whole prompt around a text.
        side: on which the text loses tokens.
    """
    around = len(tokens(text)) - len(
        truncation.encode(encoder.tokenizer, [text], add_special_tokens=False)[0]
    )
    room = kept - around
    while room > 0:
        longer = tokens(_part(encoder, text, room, side))
        over = len(longer) - kept
        if over <= 0:
            return longer
        room -= over
    ids = tokens("")
    if len(ids) > kept:
        raise too_large(len(ids), kept, index)
    return ids


def _part(encoder: Encoder, text: str, count: int, side: Side) -> str:
    """The first or last `count` tokens of a text, as text."""
    while True:
        with truncation.failures("a text"):
            encoding = encoder.tokenizer.encode_batch([text], add_special_tokens=False)[0]
        if len(encoding.ids) <= count:
            return text
        if side == "right":
            end = min(encoding.offsets[count - 1][1], encoding.offsets[count][0])
            text = text[: min(end, len(text) - 1)]
        else:
            start = max(encoding.offsets[-count][0], encoding.offsets[-count - 1][1])
            text = text[max(start, 1) :]
