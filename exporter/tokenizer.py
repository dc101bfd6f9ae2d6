"""A checkpoint's tokenizer as the runtime wants it: one tokenizer.json and the facts that are not in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import CheckpointError
from .sentence_files import json_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a fast tokenizer can be built from when tokenizer.json is absent.
SLOW = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NO_LIMIT = 10**9  # model_max_length of a tokenizer without one is 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    json: bytes
    """tokenizer.json, byte for byte where the checkpoint has one."""
    converted: str | None
    """The file it was converted from; None: the checkpoint's own."""
    config: dict[str, Any]
    """tokenizer_config.json; empty when there is none."""
    special: dict[str, str]
    """`cls_token` -> `[CLS]` and so on."""
    ids: dict[str, int]
    """The same names -> ids."""
    max_tokens: int | None
    chat_template: str | None
    ended: str | None
    """The token that tokenizer_config.json asks for behind every text and tokenizer.json forgot; it is put there."""
    tokenizer: Tokenizer

    def id(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)

    def token(self, id: int) -> str | None:
        return self.tokenizer.id_to_token(id)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids


def read(folder: Path) -> Text:
    """Raises CheckpointError: no tokenizer, or one that is damaged."""
    from tokenizers import Tokenizer

    config = json_file(folder / "tokenizer_config.json", dict) if (folder / "tokenizer_config.json").is_file() else {}
    path, converted = folder / "tokenizer.json", None
    if path.is_file():
        raw = path.read_bytes()
    else:
        raw, converted = _converted(folder)
    try:
        tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = _special(folder, config)
    ids = {role: found for role, token in special.items() if (found := tokenizer.token_to_id(token)) is not None}
    ended = _end(tokenizer, config, special, ids)
    if ended is not None:
        raw = tokenizer.to_str().encode()
    limit = config.get("model_max_length")
    return Text(
        json=raw,
        converted=converted,
        config=config,
        special=special,
        ids=ids,
        max_tokens=int(limit) if isinstance(limit, int | float) and 0 < limit < NO_LIMIT else None,
        chat_template=_chat_template(folder, config),
        ended=ended,
        tokenizer=tokenizer,
    )


def _end(tokenizer: Tokenizer, config: dict[str, Any], special: dict[str, str], ids: dict[str, int]) -> str | None:
    """Makes `add_eos_token` true. Slow tokenizers obeyed it, and models that pool the last token were trained so; a tokenizer.json whose
    post-processor forgot it is otherwise believed (transformers 5 does), and every vector of such a model is then another one."""
    from tokenizers import processors

    end, begin = ids.get("eos_token"), ids.get("bos_token")
    found = tokenizer.encode("a").ids
    if not config.get("add_eos_token") or end is None or found[-1:] == [end]:
        return None
    opens = f"{special['bos_token']} " if begin is not None and found[:1] == [begin] else ""
    text, pair = f"{opens}$A {special['eos_token']}", f"{opens}$B:1 {special['eos_token']}:1"
    used = [(special[role], ids[role]) for role in ("bos_token", "eos_token") if special.get(role) and role in ids]
    tokenizer.post_processor = processors.TemplateProcessing(single=text, pair=f"{text} {pair}", special_tokens=list(dict.fromkeys(used)))
    return special["eos_token"]


def _special(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """As transformers: special_tokens_map.json wins in folders from before 4.34, which have no added_tokens_decoder."""
    path = folder / "special_tokens_map.json"
    older = json_file(path, dict) if path.is_file() else {}
    merged = older | config if "added_tokens_decoder" in config else config | older
    found = {role: merged.get(role) for role in ROLES}
    contents = {role: token.get("content") if isinstance(token, dict) else token for role, token in found.items()}
    return {role: token for role, token in contents.items() if isinstance(token, str) and token}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        found = next((entry.get("template") for entry in found if isinstance(entry, dict) and entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _converted(folder: Path) -> tuple[bytes, str]:
    """tokenizer.json made from an older format by transformers."""
    origin = next((name for name in SLOW if (folder / name).is_file()), None)
    if origin is None:
        raise CheckpointError(f"{folder}: no tokenizer; expected tokenizer.json or one of {', '.join(SLOW)}")
    from transformers import AutoTokenizer

    from .architectures._transformers import quiet

    try:
        with quiet():
            made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        backend = made.backend_tokenizer
    except Exception as error:  # transformers raises many types; each means that it cannot read these files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder}: {origin} could not be converted to tokenizer.json: {reason}") from None
    return json.dumps(json.loads(backend.to_str()), ensure_ascii=False).encode(), origin
