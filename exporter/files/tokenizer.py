"""A checkpoint's tokenizer as the runtime wants it: one tokenizer.json and the facts that are not in it."""

from __future__ import annotations

import json
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
from . import auto_tokenizer
from .auto_tokenizer import Auto

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a fast tokenizer can be built from when tokenizer.json is absent.
SLOW = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NO_LIMIT = 10**9  # model_max_length of a tokenizer without one is 1e30
# Classes whose own code obeyed `add_eos_token` until transformers 5, which takes the post-processor of
# tokenizer.json instead.
OBEYED = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer", "CohereTokenizer")
MOST_SPELT = 400
"""Special and added tokens that are written into the texts which two tokenizers are compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    json: bytes
    """tokenizer.json: byte for byte the checkpoint's where transformers reads the
    folder as that file says."""
    converted: str | None
    """The file it was converted from; None: the checkpoint has a tokenizer.json."""
    config: dict[str, Any]
    """tokenizer_config.json; empty when there is none."""
    special: dict[str, str]
    """`cls_token` -> `[CLS]` and so on."""
    ids: dict[str, int]
    """The same names -> ids."""
    max_tokens: int | None
    chat_template: str | None
    ended: str | None
    """The token that tokenizer_config.json asks for behind every text and tokenizer.json
    forgot; it is put there."""
    splits_special: bool
    """Special tokens spelt out in a text are ordinary text."""
    cut_left: bool
    """A text that is too long loses its beginning."""
    guesses: tuple[Guess, ...]
    tokenizer: Tokenizer

    def id(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)

    def token(self, id: int) -> str | None:
        return self.tokenizer.id_to_token(id)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids


def read(
    folder: Path, *, lowercase: bool = False, overrides: Mapping[str, Any] | None = None
) -> TokenizerFiles:
    """`lowercase`: do_lower_case of Sentence Transformers, which puts a step in front of the normaliser, so
    that special tokens keep their case. `overrides`: keys of config.json that the file may lack. Raises
    CheckpointError: no tokenizer, or one that is damaged.
    """
    config = (
        json_file(folder / "tokenizer_config.json", dict)
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    with in_one_sentence(f"{folder}: its tokenizer cannot be read"):
        return _read(folder, config, lowercase, overrides or {})


def _read(
    folder: Path, config: dict[str, Any], lowercase: bool, overrides: Mapping[str, Any]
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
        raw = _lowered(tokenizer, raw)
        guesses.append(
            Guess(
                "lower-cased", "every text, but not special tokens", "do_lower_case of Sentence Transformers"
            )
        )
    if "token_type_ids" not in auto.tokenizer("a", "a") and any(tokenizer.encode("a", "a").type_ids):
        raw, tokenizer = _untyped(folder, tokenizer)
        guesses.append(
            Guess(
                "token types",
                "none",
                (f"{auto.name} makes none, so both sides of a pair have the model's first"),
            )
        )
    special = {role: str(token) for role in ROLES if (token := getattr(auto.tokenizer, role, None))}
    ids = {
        role: found for role, token in special.items() if (found := tokenizer.token_to_id(token)) is not None
    }
    ended = _end(tokenizer, config, special, ids)
    if ended is not None:
        raw = tokenizer.to_str().encode()
        why = (
            "add_eos_token of tokenizer_config.json, which the model was trained with; transformers 5 "
            "leaves it out"
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
    """What the artifact gets: the checkpoint's own file where transformers reads the folder so, else
    what transformers reads."""
    if auto.instead_of is not None:
        guesses.append(
            Guess("tokenizer", f"read as {auto.name}", (f"AutoTokenizer cannot read it: {auto.instead_of}"))
        )
    if auto.backend is None:
        if own is None or raw is None:
            raise CheckpointError(
                f"{folder}: {origin} could not be converted to tokenizer.json: {auto.name} has no fast form"
            )
        if any(own.encode(text).ids != auto.ids(text) for text in texts(own)):
            raise CheckpointError(
                f"{folder}: transformers reads this tokenizer with {auto.name}, Python code that makes "
                "other ids than tokenizer.json; "
                "save the checkpoint with a fast tokenizer class"
            )
        return raw, own
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


def texts(tokenizer: Tokenizer) -> list[str]:
    """Texts on which two tokenizers that differ are likely to show it: every special and added token,
    accents, case, scripts, spaces."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:MOST_SPELT]
    spelt = [f"a{token}b {token} c{token.lower()} {token.upper()}" for token in added]
    plain = (
        "", " ", "a", "The Red PLANET", "Ünïcödé naïve façade STRASSE Straße İstanbul ﬁne ①２０２４",
        "火星は赤い惑星です 中文 한국어",
        "ไทย עברית العربية", "  two  spaces\tand\r\n\nlines \u00a0\u3000 ",
        "🙂 👩\u200d👩\u200d👧 🇫🇷 e\u0301",
        "don't I'LL 3.14 1,000 x_y a-b", string.punctuation, "ab" * 80, "x\u200by\ufeffz\x00\x07",
    )  # fmt: skip
    return [*plain, *("".join(spelt[start : start + 50]) for start in range(0, len(spelt), 50))]


def _untyped(folder: Path, tokenizer: Tokenizer) -> tuple[bytes, Tokenizer]:
    """With the type 0 for every token of a pair."""

    def plain(step: dict[str, Any] | None) -> dict[str, Any] | None:
        match step:
            case {"type": "Sequence", "processors": [*inner]}:
                return {**step, "processors": [plain(each) for each in inner]}
            case {"type": "TemplateProcessing"}:
                pieces = ("single", "pair")
                return step | {
                    name: [
                        {kind: {**piece, "type_id": 0} for kind, piece in each.items()} for each in step[name]
                    ]
                    for name in pieces
                }
            case {
                "type": "BertProcessing",
                "cls": [str(first), int(first_id)],
                "sep": [str(last), int(last_id)],
            }:
                single, pair = f"{first} $A {last}", f"{first} $A {last} $B:0 {last}:0"
                tokens = [(first, first_id), (last, last_id)]
                return written(processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens))
            case None:
                return written(processors.TemplateProcessing(single="$A", pair="$A $B:0", special_tokens=[]))
            case _:
                return step

    def written(step: Any) -> dict[str, Any]:
        return json.loads(step.__getstate__())

    from tokenizers import processors

    described = json.loads(tokenizer.to_str())
    described["post_processor"] = plain(described["post_processor"])
    raw = json.dumps(described, ensure_ascii=False).encode()
    made = _opened(folder / "tokenizer.json", raw)
    made.encode_special_tokens = tokenizer.encode_special_tokens
    return raw, made


def _lowered(tokenizer: Tokenizer, raw: bytes) -> bytes:
    """As Sentence Transformers does it: in front of the other steps, unless one of
    them lower-cases already."""
    from tokenizers import normalizers

    found = tokenizer.normalizer
    sequence: Any = found if isinstance(found, normalizers.Sequence) else [found] if found is not None else []
    steps = list(sequence)
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return raw
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.to_str().encode()


def _end(
    tokenizer: Tokenizer, config: dict[str, Any], special: dict[str, str], ids: dict[str, int]
) -> str | None:
    """Makes `add_eos_token` true for the classes that obeyed it: models that pool the last token were trained
    so. transformers 5 believes a tokenizer.json whose post-processor forgot it, and every vector of such a
    model is then another one."""
    from tokenizers import processors

    end, begin = ids.get("eos_token"), ids.get("bos_token")
    if not config.get("add_eos_token") or end is None or not _obeyed(config):
        return None
    found = tokenizer.encode("a").ids
    if found[-1:] == [end]:
        return None
    opens = f"{special['bos_token']} " if begin is not None and found[:1] == [begin] else ""
    text, pair = f"{opens}$A {special['eos_token']}", f"{opens}$B:1 {special['eos_token']}:1"
    used = [
        (special[role], ids[role]) for role in ("bos_token", "eos_token") if special.get(role) and role in ids
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=text, pair=f"{text} {pair}", special_tokens=list(dict.fromkeys(used))
    )
    return special["eos_token"]


def _obeyed(config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer's own class put the end token: one of transformers 4, or one
    that the checkpoint carries."""
    remote = config.get("auto_map")
    carried = "AutoTokenizer" in remote if isinstance(remote, dict) else bool(remote)
    return carried or str(config.get("tokenizer_class")).removesuffix("Fast") in OBEYED


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        found = next(
            (
                entry.get("template")
                for entry in found
                if isinstance(entry, dict) and entry.get("name") == "default"
            ),
            None,
        )
    return found if isinstance(found, str) else None
