"""The tokenizer that transformers' AutoTokenizer makes of a checkpoint's files, and so the one that other
libraries run. No code of the checkpoint is run.

A tokenizer.json is one of up to six files that decide token ids. Tokens may be in `added_tokens_decoder`
alone. A tokenizer class may rebuild the normaliser from tokenizer_config.json (BertTokenizer) or take the
file's (PreTrainedTokenizerFast). The library decides which file wins, so the export runs it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ...runtime.errors import is_failure, reason
from ...runtime.inputs.tokenizer_file import MOST_BYTES
from ..base.json_file import json_file
from ..base.quiet import silent_transformers

# Keys of config.json that decide the tokenizer's class. The others are the model's, and may be written in a
# way that transformers cannot read.
KEYS = ("model_type", "tokenizer_class", "model_name", "transformers_version")
SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
# Keys of an added token. The tokenizers library prints a line to stdout for any other.
TOKEN_KEYS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# Parts of a tokenizer.json that decide token ids, in the order in which they run.
PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "model", "post_processor", "decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """A folder's tokenizer as transformers reads it."""

    tokenizer: Any
    """transformers' object."""
    backend: Tokenizer | None
    """None: the class is written in Python and has none."""
    instead_of: str | None = None
    """Why AutoTokenizer could not read the folder, where the generic fast class did."""

    @property
    def name(self) -> str:
        """The tokenizer's class."""
        name = type(self.tokenizer).__name__
        return "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, special tokens included."""
        return list(self.tokenizer(text)["input_ids"])


class Unreadable(ValueError):
    """No class of transformers reads the folder; the message is why."""


def read(folder: Path, overrides: Mapping[str, Any]) -> Auto:
    """The tokenizer in `folder`. `overrides` fill in keys that config.json lacks (`model_type`).

    Raises Unreadable.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with _view(folder, overrides) as view, silent_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(view), local_files_only=True, trust_remote_code=False
            )
            return Auto(tokenizer=tokenizer, backend=getattr(tokenizer, "backend_tokenizer", None))
        except BaseException as error:
            if not is_failure(error):
                raise
            why = reason(error).replace(str(view), str(folder))
        if not (view / "tokenizer.json").is_file():
            raise Unreadable(why)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(view), local_files_only=True)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise Unreadable(reason(error).replace(str(view), str(folder))) from None
        return Auto(tokenizer=tokenizer, backend=tokenizer.backend_tokenizer, instead_of=why)


@contextmanager
def _view(folder: Path, overrides: Mapping[str, Any]) -> Iterator[Path]:
    """A temporary folder with links to the tokenizer's files, and copies of the settings without what
    transformers cannot read."""
    with tempfile.TemporaryDirectory(prefix="poolrt-tokenizer-") as place:
        view = Path(place)
        for path in folder.iterdir():
            if path.is_file() and path.suffix in SUFFIXES and path.stat().st_size <= MOST_BYTES:
                (view / path.name).symlink_to(path.resolve())
        config = json_file(folder / "config.json", dict) if (folder / "config.json").is_file() else {}
        _replace(
            view / "config.json",
            {key: value for key in KEYS if (value := config.get(key) or overrides.get(key))},
        )
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                settings = json_file(folder / name, dict)
                # Names of other files, for old versions of transformers
                settings.pop("fast_tokenizer_files", None)
                if name == "special_tokens_map.json":
                    settings = {key: _plain(value) for key, value in settings.items()}
                elif isinstance(added := settings.get("added_tokens_decoder"), dict):
                    settings["added_tokens_decoder"] = {key: _plain(value) for key, value in added.items()}
                _replace(view / name, settings)
        yield view


def _replace(path: Path, value: object) -> None:
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _plain(token: Any) -> Any:
    if isinstance(token, list):
        return [_plain(part) for part in token]
    if isinstance(token, dict) and "content" in token:
        return {key: value for key, value in token.items() if key in TOKEN_KEYS}
    return token


def differences(own: Tokenizer, auto: Tokenizer) -> list[str]:
    """The parts in which `auto` differs from `own`, by name; added tokens by their text."""
    first, second = _described(own), _described(auto)
    different = [part for part in PARTS if first[part] != second[part]]
    if "added_tokens" in different:
        known = [token["content"] for token in first["added_tokens"]]
        more = [repr(token["content"]) for token in second["added_tokens"] if token["content"] not in known]
        if more:
            shown = ", ".join(more[:5]) + (f" and {len(more) - 5} more" if len(more) > 5 else "")
            different[0] = f"added tokens {shown}"
    return [part.replace("_", " ") for part in different]


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    described = json.loads(tokenizer.to_str())
    for prefix in ("continuing_subword_prefix", "end_of_word_suffix"):
        described["model"][prefix] = described["model"].get(prefix) or None  # "" and null say the same
    return described
