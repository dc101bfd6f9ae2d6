"""Turns a text into token ids: an artifact's tokenizer, where its texts may be cut, how long an item may be.

Whatever a caller can get wrong about a text is reported here as InputError, in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..artifact.manifest import TextPreparation
from ..errors import ArtifactError, InputError, is_failure, reason
from . import tokenizer_file, truncation
from .items import Item, TokenLimits
from .prompts import token_ids
from .special_tokens import Joint, around
from .truncation import Boundaries, Side


class Encoder:
    """An artifact's tokenizer: opened once, used from any thread, never changed. Raises ArtifactError
    when it cannot be opened."""

    def __init__(self, folder: Path, text: TextPreparation) -> None:
        self.text = text
        self.max_tokens = text.max_tokens
        try:
            self.tokenizer = tokenizer_file.opened(tokenizer_file.content(folder / text.tokenizer))
            self.tokenizer.encode_special_tokens = text.split_special_tokens
            vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
            self.characters_per_token = max(map(len, vocabulary), default=1)
            # Some tokenizers have more ids than the model has rows. Only then the ids of texts are checked
            # too.
            self.may_exceed_table = max(vocabulary.values(), default=0) >= text.vocab_size
            self.boundaries = Boundaries(self.tokenizer, vocabulary)
            self.before, self.after = around(self.tokenizer, text.tokenizer)
            self.joint = Joint.of(self.tokenizer)
        except ArtifactError:
            raise
        except BaseException as error:  # the library raises bare Exception, and panics past it
            if not is_failure(error):
                raise
            raise ArtifactError(
                f"{text.tokenizer}: not a readable tokenizer ({reason(error)}); export the artifact again"
            ) from None

    # How long an item may be

    def kept(self, limits: TokenLimits) -> int | None:
        """How many tokens truncation keeps; None: nothing is cut. Raises InputError for a number or a side
        that cannot be."""
        wanted, limit = limits.truncate_prompt_tokens, self.limit(limits)
        if limits.truncation_side not in (None, "left", "right"):
            raise InputError(
                f"truncation_side {limits.truncation_side!r} is not 'left' or 'right'",
                field="truncation_side",
            )
        if wanted is None:
            return None
        if isinstance(wanted, bool) or not isinstance(wanted, int):
            raise InputError(
                f"truncate_prompt_tokens: expected a whole number, found {type(wanted).__name__}",
                field="truncate_prompt_tokens",
            )
        if wanted > limit:
            # vLLM's clients compare this sentence literally.
            raise InputError(
                "truncate_prompt_tokens value is greater than max_model_len. Please request a "
                "smaller truncation size.",
                field="truncate_prompt_tokens",
            )
        if wanted < -1:
            raise InputError(
                f"truncate_prompt_tokens is {wanted}, expected -1 (the model's limit) or more",
                field="truncate_prompt_tokens",
            )
        return limit if wanted == -1 else wanted

    def limit(self, limits: TokenLimits) -> int:
        """The longest item, in tokens."""
        return self.max_tokens if limits.max_tokens is None else limits.max_tokens

    def check_characters(self, texts: Sequence[str], places: Sequence[int], limit: int) -> None:
        """Raises InputError for a text that cannot fit, before it is tokenised."""
        longest = limit * self.characters_per_token
        for index, text in zip(places, texts, strict=True):
            if len(text) > longest:
                raise InputError(
                    f"input {index}: this model's maximum context length is {limit} tokens, the text has "
                    f"{len(text)} characters and {longest} is the most that many tokens can hold. Please "
                    "reduce the length of the input prompt.",
                    field="input_text",
                )

    def too_long(self, tokens: int, limit: int, index: int, qualifier: str = "") -> InputError:
        """The error for an item of more than `limit` tokens; `qualifier` stands before the count."""
        return InputError(
            f"input {index}: this model's maximum context length is {limit} tokens, found "
            f"{qualifier}{tokens}. Please reduce the length of the input prompt, or set "
            "truncate_prompt_tokens to -1.",
            field="input_tokens",
        )

    # Items

    def from_texts(
        self,
        texts: Sequence[str],
        places: Sequence[int],
        kept: int | None,
        limits: TokenLimits,
        add_special_tokens: bool,
        *,
        lowercase: bool = False,
    ) -> list[Item]:
        """Items of texts as they are. `places` are their indices among the caller's inputs, for messages.
        Raises InputError for a text that is too long or no valid Unicode."""
        limit, side, own = self.limit(limits), limits.truncation_side, self.text.truncation_side
        before, after = (self.before, self.after) if add_special_tokens else ([], [])
        wanted = (limit if kept is None else kept) + 1
        whole = truncation.WHOLE * max(wanted, 32)
        short = [text.lower() if lowercase else text for text in texts if len(text) <= whole]
        try:
            encoded = iter(
                truncation.encode(self.tokenizer, short, add_special_tokens=add_special_tokens)
                if short
                else ()
            )
            items = []
            for index, text in zip(places, texts, strict=True):
                more = ""
                if len(text) <= whole:
                    ids = next(encoded)
                else:
                    content = truncation.content(
                        self.tokenizer, text, wanted, self.boundaries, side or own, lowercase=lowercase
                    )
                    ids = [*before, *content.ids, *after]
                    more = "" if content.whole else "at least "
                if kept is not None and len(ids) > kept:
                    items.append(
                        self.item(
                            _cut(ids, kept, side, len(before), len(after), own=own), index, truncated=True
                        )
                    )
                elif len(ids) > limit:
                    raise self.too_long(len(ids), limit, index, more)
                else:
                    items.append(self.item(ids, index))
            return items
        except TypeError:
            for index, text in zip(places, texts, strict=True):
                truncation.check_text(text, f"input {index}")
            raise

    def from_ids(self, prompt: Any, index: int, kept: int | None, limits: TokenLimits) -> Item:
        """The item of a prompt of token ids, without special tokens. Raises InputError."""
        ids = token_ids(prompt, index, self.text.vocab_size)
        limit = self.limit(limits)
        if kept is not None and len(ids) > kept:
            ids = ids[len(ids) - kept :] if limits.truncation_side == "left" else ids[:kept]
            return self.item(ids, index, truncated=True)
        if len(ids) > limit:
            raise self.too_long(len(ids), limit, index)
        return self.item(ids, index)

    def item(
        self, ids: list[int], index: int, *, type_ids: list[int] | None = None, truncated: bool = False
    ) -> Item:
        """An item, checked: it has tokens, and every id has a row in the table. Padding of the model's own is
        not counted. Raises InputError."""
        if not ids:
            raise InputError(f"input {index}: the prompt cannot be empty: it has no tokens", field="input")
        if self.may_exceed_table and max(ids) >= self.text.vocab_size:
            raise InputError(
                f"input {index}: token id {max(ids)} is out of vocabulary ({self.text.vocab_size} ids)",
                field="input",
            )
        item = Item(ids=ids, type_ids=type_ids, truncated=truncated, prompt_tokens=len(ids))
        if self.text.pad_to is not None and len(ids) < self.text.pad_to:
            padding = [self.text.pad_id] * (self.text.pad_to - len(ids))
            item.ids = [*ids, *padding] if self.text.pad_side == "right" else [*padding, *ids]
        return item

    # Plain tokenising

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text of any length, lower-cased as `Preparation.singles` does. Raises InputError."""
        truncation.check_text(text, "prompt", field="prompt")
        truncation.check_whole(len(text), "prompt", field="prompt")
        if self.text.lowercase:
            text = text.lower()
        return truncation.encode(self.tokenizer, [text], add_special_tokens=add_special_tokens)[0]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's spelling of each id; "" for an id without one."""
        return [self.tokenizer.id_to_token(number) or "" for number in ids]

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids. Raises InputError for ids that are no token of this tokenizer."""
        numbers = token_ids(ids, 0, 1 << 32, field="tokens")
        with truncation.failures("these token ids"):
            # As a batch of one, because `decode` would stop all other threads meanwhile.
            return self.tokenizer.decode_batch([numbers], skip_special_tokens=skip_special_tokens)[0]


def _cut(ids: list[int], kept: int, side: Side | None, before: int, after: int, *, own: Side) -> list[int]:
    if side == "left":
        return ids[len(ids) - kept :]
    if side is None and kept >= before + after:
        # The tokenizer's own truncation cuts content and keeps special tokens.
        if own == "left":
            return ids[:before] + ids[len(ids) - (kept - before) :]
        return ids[: kept - after] + (ids[-after:] if after else [])
    return ids[:kept]
