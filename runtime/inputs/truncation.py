"""Cutting token lists, and tokenising no more of a long text than truncation will keep.

Instead of a long text its beginning (or end) is tokenised, and the result must be what the whole text gives:

1. A cut before a single space between two letters or digits changes no token on either side, unless the
   vocabulary has pieces that reach over such a space (`Boundaries` looks).
2. Where there is no such place (Chinese, base64), the text is cut at `CUTS` neighbouring characters. For BPE
   and Unigram the tokens of all beginnings form a tree (each beginning's last token is fixed by that
   beginning alone), and the whole text's tokens pass through one of any n neighbouring places when no piece
   is longer than n: so tokens on which all those beginnings agree are the whole text's.
3. Where they disagree, or the text gives too few tokens, more of it is taken, in the end all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from .. import cancellation
from ..errors import EngineError, InputError, is_failure, reason

Side = Literal["left", "right"]

# Characters tokenised for a first look at a text, per token wanted. English needs 4 to 5; a text that needs
# more costs a second look.
CHARACTERS_PER_TOKEN = 8
# Texts up to this many characters per kept token are tokenised whole: a second look would
# cost more than it saves.
WHOLE = 12
# Neighbouring cuts that must agree; SentencePiece makes no piece longer than 16 characters unless told to.
CUTS = 16
# Tokens between those wanted and a cut inside a word; more than the pieces of WordPiece's longest
# word (100 characters).
MARGIN = 128
GROWTH = 4
# What is looked at of a text, in characters, for the tokens that are kept of it: normalising takes some
# hundred bytes of memory for each.
LOOKED_AT = 1 << 18
LOOKED_AT_PER_TOKEN = 32
# Texts and characters that are tokenised in one step.
STEP, STEP_CHARACTERS = 1024, 1 << 20
_SLICE = 1 << 17

_RUNS = re.compile(r"[ \t\r\n]{2,}")
# WordPiece turns words beyond a length (100 in every published BERT) into one unknown token.
_WORDS = re.compile(r"([A-Za-z0-9]{128})[A-Za-z0-9]+")


class Content(NamedTuple):
    """Token ids of a text without special tokens."""

    ids: list[int]
    whole: bool
    """False: more tokens follow (or precede, cut from the left) than were looked at."""


class Boundaries:
    """What is known of a tokenizer about where its texts may be cut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Such a piece can cover the end of one word and the start of the next.
        self.usable = not any(_covers_words(piece) for piece in tokenizer.get_vocab(with_added_tokens=True))
        # A tokenizer that puts a space in front of every text gives " cd" one more than
        # it has inside "ab cd".
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
        """The last place at or before `end` where `text` may be cut; 0 when there is none in the
        second half of text[:end]."""
        if not self.usable:
            return 0
        place, floor = end, end // 2
        while (place := text.rfind(" ", floor, place)) > 0:
            if text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
                return place
        return 0

    def first(self, text: str, start: int) -> int:
        """The first such place at or after `start`; len(text) when there is none in the
        first half of text[start:]."""
        if not self.tail_usable:
            return len(text)
        place, ceiling = start - 1, start + (len(text) - start) // 2
        while (place := text.find(" ", place + 1, ceiling)) >= 0:
            if place > 0 and text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
                return place
        return len(text)

    def shorter(self, text: str) -> str:
        """A text with the same tokens, without what this tokenizer shrinks anyway: runs of
        white space, endless words."""
        # In slices, so that other threads go on meanwhile. What is parted between two of them
        # is only shortened less.
        return "".join(self._shorter(text[start : start + _SLICE]) for start in range(0, len(text), _SLICE))

    def _shorter(self, text: str) -> str:
        if self._joins_spaces:
            text = _RUNS.sub(" ", text)
        return _WORDS.sub(r"\1", text) if self._refuses_words else text


def _covers_words(piece: str) -> bool:
    for space in (" ", "▁", "Ġ"):  # as added tokens, SentencePiece and byte-level BPE write it
        head, found, tail = piece.strip(space).partition(space)
        if found and head and tail:
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
    """At least the first (side `right`) or last (`left`) `wanted` tokens of `text`,
    or all when it has fewer."""

    def ids_of(*parts: str) -> list[list[int]]:
        return _ids(tokenizer, [part.lower() for part in parts] if lowercase else parts)

    characters = max(wanted, 32) * CHARACTERS_PER_TOKEN
    shortened = False
    while characters * WHOLE < len(text) * CHARACTERS_PER_TOKEN:
        if not shortened and characters > max(wanted, 32) * CHARACTERS_PER_TOKEN * GROWTH:
            # Twice too few tokens for its length.
            text, shortened = boundaries.shorter(text), True
            continue
        ids = None
        if part := _part(text, characters, boundaries, side):
            ids = ids_of(part)[0]
        elif characters * CUTS < len(text):
            ids = _agreed(ids_of, text, characters, wanted, side)
        if ids is not None and len(ids) >= wanted:
            return Content(ids, whole=False)
        characters *= GROWTH
        check_looked_at(text, characters, wanted)
    return Content(ids_of(text)[0], whole=True)


def check_looked_at(text: str, characters: int, wanted: int) -> None:
    """Raises InputError for a text so poor in tokens that too much of it would have to be read to
    find those that are kept.

    `characters`: how many are to be read next; all of them where that is most of the text.
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
    """Raises InputError for more text than is tokenised at once."""
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


def _agreed(
    ids_of: Callable[..., list[list[int]]], text: str, characters: int, wanted: int, side: Side
) -> list[int] | None:
    def part(less: int) -> str:
        return text[: characters - less] if side == "right" else text[len(text) - characters + less :]

    ids = ids_of(part(0))[0]
    if len(ids) < wanted + MARGIN:
        return None
    sure = cut(ids, wanted, side)
    others = ids_of(*(part(less) for less in range(1, CUTS)))
    return sure if all(cut(other, wanted, side) == sure for other in others) else None


def cut(ids: list[int], wanted: int, side: Side) -> list[int]:
    """The first (side `right`: the end is lost) or last tokens, at most `wanted`."""
    return ids[:wanted] if side == "right" else ids[max(len(ids) - wanted, 0) :]


def heads(text: str, tokens: int, boundaries: Boundaries) -> Iterator[str]:
    """Growing beginnings of a text, each cut where its tokens are those of the whole text; the
    last one is the whole text."""
    characters = max(tokens, 32) * CHARACTERS_PER_TOKEN
    while characters * WHOLE < len(text) * CHARACTERS_PER_TOKEN:
        if end := boundaries.last(text, characters):
            yield text[:end]
        characters *= GROWTH
        check_looked_at(text, characters, tokens)
    yield text


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Token ids of every text. Raises TypeError for what is no text or no valid Unicode (`check_text` says
    which), and EngineError where the tokenizer itself fails.

    The GIL is released meanwhile, also for one text (`Tokenizer.encode` holds it).
    """
    if len(texts) <= STEP and sum(map(len, texts)) <= STEP_CHARACTERS:
        with failures("a text"):
            return [
                found.ids
                for found in tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
            ]
    ids: list[list[int]] = []
    for step in steps(texts):
        cancellation.check()
        with failures("a text"):
            ids += [
                found.ids
                for found in tokenizer.encode_batch_fast(step, add_special_tokens=add_special_tokens)
            ]
    return ids


def steps(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, in portions whose tokenisation takes bounded memory (one
    text alone may be longer)."""
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
    """Turns what the tokenizers library raises of its own into EngineError: a piece without a token, an
    expression that gives up."""
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
    """Raises InputError for what is no text, or no valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{name}: expected text, found {type(text).__name__}", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise InputError(
            f"{name}: character {error.start} is a lone surrogate ({found}), not valid Unicode", field=field
        ) from None


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of a pair cut to `room` tokens in all, as the tokenizers library cuts with
    its strategy of that name."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
