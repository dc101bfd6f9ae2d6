"""Cutting token lists, and tokenising no more of a long text than truncation will keep.

A prefix of a text is tokenised instead of the whole text only where that provably gives the same tokens: the cut is made before a
single space between two letters or digits, where every pre-tokenizer in use splits; `Boundaries` refuses to cut for the vocabularies in
which a token may reach over such a space. Where a text has no such place, it is tokenised whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from .errors import InputError

Side = Literal["left", "right"]

# Characters tokenised for a first look at a text, per token wanted. English needs 4 to 5; a text that needs more costs a second look.
CHARACTERS_PER_TOKEN = 8
# Texts up to this many characters per kept token are tokenised whole: a second look would cost more than it saves.
WHOLE = 12


class Content(NamedTuple):
    """Token ids of a text without special tokens."""

    ids: list[int]
    whole: bool
    """False: more tokens follow (or precede, cut from the left) than were looked at."""


class Boundaries:
    """Finds the places where a text may be cut without changing the tokens on either side."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = tokenizer.get_vocab(with_added_tokens=True)
        # One character that byte-level BPE (Ġ) or SentencePiece (▁) writes for a space, in the middle of a piece between other
        # characters: such a piece can cover the end of one word and the start of the next.
        self.usable = not any(_covers_words(piece) for piece in pieces)
        # A tokenizer that puts a space in front of every text gives " cd" one more than it has inside "ab cd".
        whole, head, tail = (found.ids for found in tokenizer.encode_batch(["ab cd", "ab", " cd"], add_special_tokens=False))
        self.tail_usable = self.usable and whole == head + tail

    def last(self, text: str, end: int) -> int:
        """The last such place at or before `end`; 0 when there is none in the second half of text[:end]."""
        if not self.usable:
            return 0
        place, floor = end, end // 2
        while (place := text.rfind(" ", floor, place)) > 0:
            if place + 1 < len(text) and text[place - 1].isalnum() and text[place + 1].isalnum():
                return place
        return 0

    def first(self, text: str, start: int) -> int:
        """The first such place at or after `start`; len(text) when there is none in the first half of text[start:]."""
        if not self.tail_usable:
            return len(text)
        place, ceiling = start - 1, start + (len(text) - start) // 2
        while (place := text.find(" ", place + 1, ceiling)) >= 0:
            if place > 0 and text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
                return place
        return len(text)


def _covers_words(piece: str) -> bool:
    for space in (" ", "▁", "Ġ"):
        head, found, tail = piece.strip(space).partition(space)
        if found and head and tail:
            return True
    return False


def content(tokenizer: Tokenizer, text: str, wanted: int, boundaries: Boundaries, side: Side = "right") -> Content:
    """At least the first (side `right`) or last (`left`) `wanted` tokens of `text`, or all when it has fewer."""
    for part in parts(text, wanted, boundaries, side):
        ids = encode(tokenizer, [part], add_special_tokens=False)[0]
        if len(ids) >= wanted:
            return Content(ids, whole=False)
    return Content(encode(tokenizer, [text], add_special_tokens=False)[0], whole=True)


def head(tokenizer: Tokenizer, text: str, wanted: int, boundaries: Boundaries) -> str:
    """A beginning of `text` that has at least `wanted` tokens, or all of it."""
    for part in parts(text, wanted, boundaries, "right"):
        if len(encode(tokenizer, [part], add_special_tokens=False)[0]) >= wanted:
            return part
    return text


def parts(text: str, wanted: int, boundaries: Boundaries, side: Side) -> Iterator[str]:
    """Growing beginnings (side `right`) or ends (`left`) of a long text, cut where the tokens stay the same; never all of it."""
    length = len(text)
    characters = max(wanted, 32) * CHARACTERS_PER_TOKEN
    while characters * WHOLE < length * CHARACTERS_PER_TOKEN:
        part = text[: boundaries.last(text, characters)] if side == "right" else text[boundaries.first(text, length - characters) :]
        if part:
            yield part
        characters *= 4


def encode(tokenizer: Tokenizer, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Token ids of every text. The GIL is released meanwhile, also for one text (`Tokenizer.encode` holds it)."""
    try:
        return [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    except TypeError:
        for index, text in enumerate(texts):
            check_text(text, index)
        raise


def check_text(text: object, index: int) -> None:
    """Raises InputError for what is no text, or no valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"input {index}: expected text, found {type(text).__name__}", field="input")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise InputError(
            f"input {index}: character {error.start} is a lone surrogate ({found}), not valid Unicode", field="input"
        ) from None


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of a pair cut to `room` tokens in all, as the tokenizers library cuts with its strategy of that name."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
