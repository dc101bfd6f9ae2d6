"""A checkpoint's tokenizer as the runtime needs it: one tokenizer.json, and settings that are not in it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ...runtime.inputs import tokenizer_file
from ..base.guess import Guess
from ..base.json_file import json_file
from ..base.refusals import in_one_sentence
from . import auto_tokenizer, canonical_text, tokenizer_changes
from .auto_tokenizer import Auto

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Files that a fast tokenizer can be built from when tokenizer.json is absent.
SLOW = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
END = "</s>"
"""The end token of SigLIP's first tokenizer."""
NO_LIMIT = 10**9  # model_max_length of a tokenizer without one is 1e30
MOST_SPELT = 400
"""How many added tokens the texts contain on which two tokenizers are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    json: bytes
    """The artifact's tokenizer.json. It is the checkpoint's, byte for byte, where transformers agrees with
    that file."""
    converted: str | None
    """The file that `json` was converted from; None: the checkpoint has a tokenizer.json."""
    config: dict[str, Any]
    """tokenizer_config.json; empty when there is none."""
    special: dict[str, str]
    """Role -> token: `cls_token` -> `[CLS]` and so on."""
    ids: dict[str, int]
    """Role -> id."""
    max_tokens: int | None
    chat_template: str | None
    ended: str | None
    """The end token that was added to every text, because tokenizer_config.json asks for it and
    tokenizer.json lacks it."""
    canonical: str | None
    """What was put in front of the normaliser, because the model was trained so and the file lacks it."""
    splits_special: bool
    """Whether special tokens that are spelt out in a text are ordinary text."""
    pads_left: bool
    """Whether the tokenizer puts padding in front of a text."""
    cut_left: bool
    """Whether a text that is too long loses its beginning."""
    guesses: tuple[Guess, ...]
    tokenizer: Tokenizer

    def id(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)

    def token(self, id: int) -> str | None:
        return self.tokenizer.id_to_token(id)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids


def read(
    folder: Path,
    *,
    lowercase: bool = False,
    canonical: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> TokenizerFiles:
    """The tokenizer in `folder`.

    `lowercase`: do_lower_case of Sentence Transformers, a step in front of the normaliser, so that special
    tokens keep their case. `canonical`: texts are lower-cased, and without punctuation where the end token is
    SigLIP's; steps that the tokenizer lacks are added. `overrides`: keys of config.json that the file may
    lack.

    Raises CheckpointError where there is no tokenizer, or a damaged one.
    """
    config = (
        json_file(folder / "tokenizer_config.json", dict)
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    with in_one_sentence(f"{folder}: its tokenizer cannot be read"):
        return _read(folder, config, lowercase, canonical, overrides or {})


def _read(
    folder: Path, config: dict[str, Any], lowercase: bool, canonical: bool, overrides: Mapping[str, Any]
) -> TokenizerFiles:
    path, guesses = folder / "tokenizer.json", list[Guess]()
    origin = None if path.is_file() else next((name for name in SLOW if (folder / name).is_file()), None)
    if origin is None and not path.is_file():
        raise CheckpointError(f"{folder}: no tokenizer; expected tokenizer.json or one of {', '.join(SLOW)}")
    raw = None if origin is not None else _content(path)
    own = None if raw is None else _opened(path, raw)
    try:
        auto = auto_tokenizer.read(folder, overrides)
    except auto_tokenizer.Unreadable as error:
        if own is None:
            raise CheckpointError(
                f"{folder}: {origin} could not be converted to tokenizer.json: {error}"
            ) from None
        raise CheckpointError(f"{folder}: transformers cannot read this tokenizer: {error}") from None
    raw, tokenizer = _chosen(folder, own, raw, origin, auto, guesses)
    if lowercase:
        raw = tokenizer_changes.lowered(tokenizer, raw)
        guesses.append(
            Guess(
                "lower-cased", "every text, but not special tokens", "do_lower_case of Sentence Transformers"
            )
        )
    if "token_type_ids" not in auto.tokenizer("a", "a") and any(tokenizer.encode("a", "a").type_ids):
        raw = tokenizer_changes.untyped(tokenizer)
        splits_special = tokenizer.encode_special_tokens
        tokenizer = _opened(folder / "tokenizer.json", raw)
        tokenizer.encode_special_tokens = splits_special
        why = f"{auto.name} makes none, so both sides of a pair have the model's first"
        guesses.append(Guess("token types", "none", why))
    steps = None
    if canonical and config.get("do_lower_case") is not False:
        steps = canonical_text.completed(tokenizer, punctuation=str(auto.tokenizer.eos_token) == END)
        if steps is not None:
            raw = tokenizer.to_str().encode()
            guesses.append(
                Guess("texts", steps, "the model was trained so, and its tokenizer does not do it")
            )
    special = {role: str(token) for role in ROLES if (token := getattr(auto.tokenizer, role, None))}
    ids = {
        role: number
        for role, token in special.items()
        if (number := tokenizer.token_to_id(token)) is not None
    }
    ended = tokenizer_changes.end_token(tokenizer, config, special, ids)
    if ended is not None:
        raw = tokenizer.to_str().encode()
        why = (
            "add_eos_token of tokenizer_config.json, which the model was trained with; "
            "transformers 5 leaves it out"
        )
        guesses.append(Guess("tokenizer", f"puts {ended} behind every text", why))
    limit = getattr(auto.tokenizer, "model_max_length", None)
    return TokenizerFiles(
        json=raw,
        converted=origin,
        config=config,
        special=special,
        ids=ids,
        max_tokens=int(limit) if isinstance(limit, int | float) and 0 < limit < NO_LIMIT else None,
        chat_template=_chat_template(folder, config),
        ended=ended,
        canonical=steps,
        pads_left=getattr(auto.tokenizer, "padding_side", "right") == "left",
        cut_left=getattr(auto.tokenizer, "truncation_side", "right") == "left",
        splits_special=bool(getattr(tokenizer, "encode_special_tokens", False)),
        guesses=tuple(guesses),
        tokenizer=tokenizer,
    )


def _content(path: Path) -> bytes:
    try:
        return tokenizer_file.content(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None


def _opened(path: Path, raw: bytes) -> Tokenizer:
    try:
        return tokenizer_file.opened(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None


def _chosen(
    folder: Path,
    own: Tokenizer | None,
    raw: bytes | None,
    origin: str | None,
    auto: Auto,
    guesses: list[Guess],
) -> tuple[bytes, Tokenizer]:
    """The artifact's tokenizer.json, and the tokenizer that it describes.

    It is the checkpoint's own file where transformers' tokenizer agrees with it, else that tokenizer's. `own`
    and `raw` are the checkpoint's, None where it has no tokenizer.json.
    """
    if auto.instead_of is not None:
        guesses.append(
            Guess("tokenizer", f"read as {auto.name}", f"AutoTokenizer cannot read it: {auto.instead_of}")
        )
    if auto.backend is None:
        return _of_python(folder, own, raw, origin, auto, guesses)
    auto.backend.no_truncation()
    auto.backend.no_padding()
    written = auto.backend.to_str().encode()
    again = _opened(folder / (origin or "tokenizer.json"), written)
    again.encode_special_tokens = auto.backend.encode_special_tokens
    if any(auto.backend.encode(text).ids != again.encode(text).ids for text in texts(auto.backend)):
        raise CheckpointError(
            f"{folder}: the tokenizers library does not write {auto.name} so that it reads the same again"
        )
    if own is None or raw is None:
        guesses.append(Guess("tokenizer", f"converted from {origin}", "the checkpoint has no tokenizer.json"))
        return written, again
    different = auto_tokenizer.differences(own, again)
    if not different:
        own.encode_special_tokens = again.encode_special_tokens
        return raw, own
    why = f"transformers reads this folder with its {auto.name}, and other libraries with transformers"
    guesses.append(Guess("tokenizer", f"not as in tokenizer.json: {', '.join(different)}", why))
    return written, again


def _of_python(
    folder: Path,
    own: Tokenizer | None,
    raw: bytes | None,
    origin: str | None,
    auto: Auto,
    guesses: list[Guess],
) -> tuple[bytes, Tokenizer]:
    """The tokenizer that makes the ids of a class that is written in Python. Arguments, result as `_chosen`.

    Raises CheckpointError where neither the checkpoint's tokenizer.json nor a converted one does.
    """
    if (
        own is not None
        and raw is not None
        and all(own.encode(text).ids == auto.ids(text) for text in texts(own))
    ):
        return raw, own
    if auto.name == canonical_text.PYTHON_CLASS:
        converted = canonical_text.converted(folder, auto.tokenizer)
        if converted is not None and all(converted.encode(text).ids == auto.ids(text) for text in PLAIN):
            why = f"transformers' {auto.name} makes these ids in Python"
            guesses.append(Guess("tokenizer", f"converted from {canonical_text.SENTENCE_PIECE}", why))
            return converted.to_str().encode(), converted
    if own is None:
        raise CheckpointError(
            f"{folder}: {origin} could not be converted to tokenizer.json: {auto.name} has no fast form"
        )
    raise CheckpointError(
        f"{folder}: transformers reads this tokenizer with {auto.name}, Python code that makes "
        "other ids than tokenizer.json; save the checkpoint with a fast tokenizer class"
    )


PLAIN = (
    "",
    " ",
    "a",
    "The Red PLANET",
    "Ünïcödé naïve façade STRASSE Straße İstanbul ﬁne ①２０２４",
    "火星は赤い惑星です 中文 한국어",
    "ไทย עברית العربية",
    "  two  spaces\tand\r\n\nlines \u00a0\u3000 ",
    "🙂 👩\u200d👩\u200d👧 🇫🇷 e\u0301",
    "don't I'LL 3.14 1,000 x_y a-b",
    string.punctuation,
    "ab" * 80,
    "x\u200by\ufeffz\x00\x07",
)
"""Texts on which two different tokenizers probably differ: accents, case, scripts, spaces."""


def texts(tokenizer: Tokenizer) -> list[str]:
    """PLAIN, and texts made of special and added tokens."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:MOST_SPELT]
    spelt = [f"a{token}b {token} c{token.lower()} {token.upper()}" for token in added]
    return [*PLAIN, *("".join(spelt[start : start + 50]) for start in range(0, len(spelt), 50))]


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next(
            (
                entry.get("template")
                for entry in template
                if isinstance(entry, dict) and entry.get("name") == "default"
            ),
            None,
        )
    return template if isinstance(template, str) else None
