"""Cuts lists of tokens, and tokenises no more of a long text than truncation will keep.

Of a long text only the beginning (or end) is tokenised, such that the tokens are those of the whole text:

1. If possible the text is cut before a single space between two letters or digits. Such a cut changes no
   token on either side, unless the vocabulary has pieces that reach over such a space (`Boundaries` checks).
2. Otherwise (Chinese, base64) the text is cut at each of `CUTS` neighbouring characters, and the tokens on
   which all these beginnings agree are taken. In BPE and Unigram the last token of a beginning depends on
   that beginning alone. If no piece is longer than `CUTS` characters, a token of the whole text ends at one
   of the cuts, so the whole text begins with the tokens of that beginning.
3. If the beginnings differ or have too few tokens, more of the text is taken, in the end all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from .. import cancellation
from ..errors import EngineError, InputError, is_failure, reason

Side = Literal["left", "right"]

# Characters that are tokenised first, per token wanted. English needs 4 to 5. A text that needs more is
# tokenised again.
CHARACTERS_PER_TOKEN = 8
# Texts up to this many characters per kept token are tokenised whole, since tokenising twice would cost more
# than it saves.
WHOLE = 12
# Neighbouring cuts that must agree. By default SentencePiece makes no piece longer than 16 characters.
CUTS = 16
# Tokens between those wanted and a cut inside a word: more than WordPiece's longest word (100 characters) has
# pieces.
MARGIN = 128
GROWTH = 4
# Most characters of a text that are read for the tokens that are kept of it. Normalising takes some hundred
# bytes of memory for each.
LOOKED_AT = 1 << 18
LOOKED_AT_PER_TOKEN = 32
# Most texts and characters that are tokenised in one step.
STEP, STEP_CHARACTERS = 1024, 1 << 20
_SLICE = 1 << 17

_RUNS = re.compile(r"[ \t\r\n]{2,}")
# WordPiece turns words beyond a length (100 in every published BERT) into one unknown token.
_WORDS = re.compile(r"([A-Za-z0-9]{128})[A-Za-z0-9]+")


class Content(NamedTuple):
    """Token ids of a text without special tokens."""

    ids: list[int]
    whole: bool
    """False: more tokens follow (or precede, where the text is cut on the left) than are in `ids`."""


class Boundaries:
    """Where texts may be cut without changing their tokens, as far as one tokenizer allows."""

    def __init__(self, tokenizer: Tokenizer, pieces: Iterable[str]) -> None:
        """`pieces`: the tokenizer's vocabulary, added tokens included."""
        # A piece with a space inside can cover the end of one word and the start of the next.
        self.usable = not any(_covers_words(piece) for piece in pieces)
        # A tokenizer that puts a space in front of every text gives " cd" one more space than it has in "ab
        # cd".
        whole, head, tail = _ids(tokenizer, ["ab cd", "ab", " cd"])
        self.tail_usable = self.usable and whole == head + tail
        spaces = ["{}a", "a{}", "a{}b"]
        self._joins_spaces = all(
            _ids(tokenizer, [layout.format(run) for run in ("  ", "\n\n", " \t ", "\r\n" * 30)])
            == _ids(tokenizer, [layout.format(" ")]) * 4
            for layout in spaces
        )
        self._refuses_words = (
            len({tuple(ids) for ids in _ids(tokenizer, ["ab" * 64, "9" * 128, "ba" * 500])}) == 1
        )

    def last(self, text: str, end: int) -> int:
        """The last place at or before `end` where `text` may be cut; 0 where the second half of text[:end]
        has none."""
        if not self.usable:
            return 0
        place, floor = end, end // 2
        while (place := text.rfind(" ", floor, place)) > 0:
            if text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
                return place
        return 0

    def first(self, text: str, start: int) -> int:
        """The first such place at or after `start`; len(text) where the first half of text[start:] has
        none."""
        if not self.tail_usable:
            return len(text)
        place, ceiling = start - 1, start + (len(text) - start) // 2
        while (place := text.find(" ", place + 1, ceiling)) >= 0:
            if place > 0 and text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
                return place
        return len(text)

    def shorter(self, text: str) -> str:
        """A shorter text with the same tokens: without runs of white space and endless words, where this
        tokenizer shrinks them itself."""
        # In slices, so that other threads run meanwhile. A run across two slices is merely shortened less.
        return "".join(self._shorter(text[start : start + _SLICE]) for start in range(0, len(text), _SLICE))

    def _shorter(self, text: str) -> str:
        if self._joins_spaces:
            text = _RUNS.sub(" ", text)
        return _WORDS.sub(r"\1", text) if self._refuses_words else text


def _covers_words(piece: str) -> bool:
    for space in (" ", "▁", "Ġ"):  # as added tokens, SentencePiece and byte-level BPE write it
        head, inner, tail = piece.strip(space).partition(space)
        if inner and head and tail:
            return True
    return False


def content(
    tokenizer: Tokenizer,
    text: str,
    wanted: int,
    boundaries: Boundaries,
    side: Side = "right",
    *,
    lowercase: bool = False,
) -> Content:
    """At least the first (side `right`) or last (`left`) `wanted` tokens of `text`, or all where it has
    fewer. Raises InputError as `check_looked_at` does."""

    def ids_of(*parts: str) -> list[list[int]]:
        return _ids(tokenizer, [part.lower() for part in parts] if lowercase else parts)

    characters = max(wanted, 32) * CHARACTERS_PER_TOKEN
    shortened = False
    while characters * WHOLE < len(text) * CHARACTERS_PER_TOKEN:
        if not shortened and characters > max(wanted, 32) * CHARACTERS_PER_TOKEN * GROWTH:
            # The text had too few tokens for its length twice.
            text, shortened = boundaries.shorter(text), True
            continue
        ids = None
        if part := _part(text, characters, boundaries, side):
            ids = ids_of(part)[0]
        elif characters * CUTS < len(text):
            ids = _common(ids_of, text, characters, wanted, side)
        if ids is not None and len(ids) >= wanted:
            return Content(ids, whole=False)
        characters *= GROWTH
        check_looked_at(text, characters, wanted)
    return Content(ids_of(text)[0], whole=True)


def check_looked_at(text: str, characters: int, wanted: int) -> None:
    """Raises InputError for a text with so few tokens that too much of it would have to be read.

    `characters` is how many are to be read next. The whole text is read where that is most of it.
    """
    looked_at = characters if characters * WHOLE < len(text) * CHARACTERS_PER_TOKEN else len(text)
    most = max(LOOKED_AT, LOOKED_AT_PER_TOKEN * wanted)
    if looked_at > most:
        raise InputError(
            f"a text's first {most // GROWTH} characters hold fewer than {wanted} tokens, and no more "
            "of it is read; send a shorter text",
            field="input_text",
        )


def check_whole(characters: int, name: str, *, field: str = "input") -> None:
    """Raises InputError for more characters than are tokenised at once."""
    if characters > STEP_CHARACTERS:
        raise InputError(
            f"{name}: {characters} characters, and {STEP_CHARACTERS} are tokenised at once; send less",
            field=field,
        )


def _part(text: str, characters: int, boundaries: Boundaries, side: Side) -> str:
    return (
        text[: boundaries.last(text, characters)]
        if side == "right"
        else text[boundaries.first(text, len(text) - characters) :]
    )


def _common(
    ids_of: Callable[..., list[list[int]]], text: str, characters: int, wanted: int, side: Side
) -> list[int] | None:
    """The wanted tokens, if the parts that end at neighbouring characters agree on them."""

    def part(less: int) -> str:
        return text[: characters - less] if side == "right" else text[len(text) - characters + less :]

    ids = ids_of(part(0))[0]
    if len(ids) < wanted + MARGIN:
        return None
    tokens = cut(ids, wanted, side)
    others = ids_of(*(part(less) for less in range(1, CUTS)))
    return tokens if all(cut(other, wanted, side) == tokens for other in others) else None


def cut(ids: list[int], wanted: int, side: Side) -> list[int]:
    """The first (side `right`, which loses the end) or last `wanted` tokens."""
    return ids[:wanted] if side == "right" else ids[max(len(ids) - wanted, 0) :]


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Token ids of every text. Raises TypeError for an object that is no text or no valid Unicode
    (`check_text` says which), and EngineError where the tokenizer itself fails.

    The GIL is released meanwhile, even for a single text (`Tokenizer.encode` holds it).
    """
    if len(texts) <= STEP and sum(map(len, texts)) <= STEP_CHARACTERS:
        with failures("a text"):
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
            return [encoding.ids for encoding in encodings]
    ids: list[list[int]] = []
    for step in steps(texts):
        cancellation.check()
        with failures("a text"):
            encodings = tokenizer.encode_batch_fast(step, add_special_tokens=add_special_tokens)
            ids += [encoding.ids for encoding in encodings]
    return ids


def steps(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, in portions whose tokenisation takes bounded memory. A single text may be
    longer."""
    step: list[str] = []
    size = 0
    for text in texts:
        if step and (len(step) == STEP or size + len(text) > STEP_CHARACTERS):
            yield step
            step, size = [], 0
        step.append(text)
        size += len(text)
    if step:
        yield step


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Turns errors of the tokenizers library into EngineError (a piece without a token, a regular expression
    that gives up)."""
    try:
        yield
    except (TypeError, UnicodeEncodeError):
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise EngineError(f"this model's tokenizer cannot read {what}: {reason(error)}") from None


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return encode(tokenizer, texts, add_special_tokens=False)


def check_text(text: object, name: str, *, field: str = "input") -> None:
    """Raises InputError for an object that is no text, or no valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{name}: expected text, found {type(text).__name__}", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise InputError(
            f"{name}: character {error.start} is a lone surrogate ({surrogate}), not valid Unicode",
            field=field,
        ) from None


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths (in tokens) of a pair that is cut to `room` tokens in all, by the tokenizers library's strategy
    of this name."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
