"""How much longer a tokenizer can make a text, from its description: a file of one kilobyte may ask for
gigabytes per character.

No step is applied to more than a few hundred characters, so that checking a hostile file costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Most characters out per character in. Published chains reach 3 (`▁` for a space, `<n>` for a line's end).
# NFKC reaches 18 and is not counted.
MOST = 32
# The same where it is not measured, as the product of what each step may do at worst.
MOST_AT_WORST = 1000
# Most characters that one step may put in the place of what it replaces.
MOST_CONTENT = 256
# Most tokens that a post-processor may put around a text.
MOST_AROUND = 1024
DEEPEST = 32

_EMPTY: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"},
}  # fmt: skip

NormalizerStep = Mapping[str, Any]


def problem(tokenizer: Mapping[str, Any]) -> str | None:
    """What in a parsed tokenizer.json would make texts far too long; None where nothing does."""
    for part, inner in (
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
        ("decoder", "decoders"),
    ):
        steps = list(_flat(tokenizer.get(part), inner))
        long = [step for step in steps if len(_content(step)) > MOST_CONTENT]
        if long:
            return (
                f"its {part} puts {len(_content(long[0]))} characters in the place of a few "
                f"({MOST_CONTENT} are allowed)"
            )
        worst = 1.0
        for step in steps:
            worst *= max(1.0, _worst(step))
        if worst > MOST_AT_WORST or (worst > MOST and (worst := _measured(steps)) > MOST):
            return f"its {part} makes a text {worst:.3g} times longer or more ({MOST} times is allowed)"
    return _around(tokenizer.get("post_processor"))


def _flat(step: Any, inner: str, depth: int = 0) -> Iterator[NormalizerStep]:
    """The steps of nested `Sequence`s, in the order in which they run."""
    if not isinstance(step, Mapping) or depth > DEEPEST:
        return
    parts = step.get(inner) or step.get("processors")
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        for part in parts:
            yield from _flat(part, inner, depth + 1)
    else:
        yield step


def _content(step: NormalizerStep) -> str:
    for key in ("content", "prepend"):
        if isinstance(value := step.get(key), str):
            return value
    if isinstance(charsmap := step.get("precompiled_charsmap"), str):
        return "x" * _longest_replacement(charsmap)
    return ""


def _longest_replacement(charsmap: str) -> int:
    """Bytes of the longest string in SentencePiece's table. The table is a length, a trie of that many bytes,
    then strings that end with a zero byte."""
    try:
        raw = base64.b64decode(charsmap)
        (trie,) = struct.unpack_from("<I", raw)
    except (binascii.Error, ValueError, struct.error):
        return 0  # not a table: the tokenizers library refuses it
    return max(map(len, raw[4 + trie :].split(b"\0")))


def _pattern(step: NormalizerStep) -> tuple[str, bool]:
    """What a `Replace` looks for, and whether that is a regular expression."""
    pattern = step.get("pattern")
    if isinstance(pattern, Mapping):
        regex = pattern.get("Regex")
        return (str(regex), True) if regex is not None else (str(pattern.get("String", "")), False)
    return "", True


def _worst(step: NormalizerStep) -> float:
    """Most characters out per character in, for any text."""
    kind, content = step.get("type"), _content(step)
    if kind == "Replace":
        pattern, regex = _pattern(step)
        # A pattern that matches the empty string puts its content beside every character.
        return 1 + len(content) if regex or not pattern else len(content) / len(pattern)
    if kind in ("ByteLevel", "Metaspace"):
        return 2
    return 1 + len(content) if kind == "Prepend" else 1


def _measured(steps: Sequence[NormalizerStep]) -> float:
    """How long the content of any step becomes in the steps behind it, at most, per character that it
    replaces."""
    most = 1.0
    for place, step in enumerate(steps):
        content = _content(step)
        if step.get("type") not in ("Replace", "Prepend") or not content:
            continue
        pattern, regex = _pattern(step)
        replaced = len(pattern) if step["type"] == "Replace" and not regex and pattern else 1
        repeated = 3  # beside itself a content may match a pattern that it does not match alone
        text = content * repeated
        for later in steps[place:]:
            if later is not step:
                text = _applied(later, text)
            most = max(most, len(text) / (repeated * replaced))
            if most > MOST:
                return most
    return most


def _applied(step: NormalizerStep, text: str) -> str:
    from tokenizers import Tokenizer

    if step.get("type") not in ("Replace", "Prepend", "ByteLevel"):
        return text
    described = {
        key: value for key, value in step.items() if key in ("type", "pattern", "content", "prepend")
    }
    normalizer: Any = Tokenizer.from_str(json.dumps({**_EMPTY, "normalizer": described})).normalizer
    return normalizer.normalize_str(text)


def _around(processor: Any) -> str | None:
    """What is wrong with the templates of a post-processor: too many tokens, or the
    text itself more than once."""
    for step in _flat(processor, "processors"):
        special = step.get("special_tokens")
        lengths = (
            {name: len(entry.get("ids") or ()) for name, entry in special.items()}
            if isinstance(special, Mapping)
            else {}
        )
        for template in ("single", "pair"):
            pieces = step.get(template)
            if not isinstance(pieces, Sequence) or isinstance(pieces, str):
                continue
            texts = [
                piece["Sequence"].get("id") for piece in pieces if isinstance(piece.get("Sequence"), Mapping)
            ]
            if len(texts) != len(set(texts)):
                return f"its post_processor repeats a text ({template})"
            names = [
                piece["SpecialToken"].get("id")
                for piece in pieces
                if isinstance(piece.get("SpecialToken"), Mapping)
            ]
            around = sum(lengths.get(name, 1) for name in names)
            if around > MOST_AROUND:
                return f"its post_processor puts {around} tokens around a text ({MOST_AROUND} are allowed)"
    return None
