"""The part of a Hugging Face tokenizer that pooling scripts and IO processors use, over an artifact's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .preparation import Preparation


class Tokenizer:
    """Methods and properties as those of transformers' tokenizers."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation, self._encoder = preparation, preparation.encoder
        self._special = preparation.text.special_tokens

    @property
    def backend_tokenizer(self) -> Any:
        """The tokenizer of the tokenizers library, under the Hugging Face name. Never change its settings."""
        return self._encoder.tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._encoder.tokenize(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: int | Sequence[int], *, skip_special_tokens: bool = False) -> str:
        numbers = [ids] if isinstance(ids, int) else list(ids)
        return self._encoder.tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or a list of ids for a list of tokens. A token that the vocabulary lacks has the
        id of the unknown token, or None."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        number = self._encoder.tokenizer.token_to_id(tokens)
        return self.unk_token_id if number is None else number

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        pieces = self._encoder.pieces([ids] if isinstance(ids, int) else list(ids))
        return pieces[0] if isinstance(ids, int) else pieces

    def get_vocab(self) -> dict[str, int]:
        return self._encoder.tokenizer.get_vocab(with_added_tokens=True)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        options.pop("tokenize", None)
        return self._preparation.chat(messages, **options)

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = self.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def _special_id(self, name: str) -> int | None:
        token = self._special.get(name)
        return None if token is None else self._encoder.tokenizer.token_to_id(token)

    @property
    def cls_token_id(self) -> int | None:
        return self._special_id("cls_token")

    @property
    def sep_token_id(self) -> int | None:
        return self._special_id("sep_token")

    @property
    def mask_token_id(self) -> int | None:
        return self._special_id("mask_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._special_id("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")
