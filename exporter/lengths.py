"""How long an item may be, what pads it, and what it must end with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .detection import Guess

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


def max_tokens(checkpoint: Checkpoint) -> tuple[int, list[Guess]]:
    """The longest item, special tokens included: the lowest limit that the checkpoint's files name."""
    limits = [(int(checkpoint.family.positions(checkpoint.config)), "positions the model has")]
    sentence, text = checkpoint.sentence, checkpoint.text.max_tokens
    if sentence is not None and sentence.max_tokens is not None:
        limits.append((sentence.max_tokens, "max_seq_length of Sentence Transformers"))
    # Sentence Transformers 6 keeps its limit with the tokenizer.
    if text is not None and (checkpoint.family.capped_by_tokenizer or (sentence is not None and sentence.generation >= 6)):
        limits.append((text, "model_max_length of the tokenizer"))
    limit, why = min(limits)
    return limit, [Guess("max tokens", str(limit), why, "--max-tokens, lower only")]


def pad_id(checkpoint: Checkpoint) -> int:
    configured = checkpoint.config.get("pad_token_id")
    if isinstance(configured, int) and 0 <= configured < int(checkpoint.config["vocab_size"]):
        return configured
    ids = checkpoint.text.ids
    return ids.get("pad_token", ids.get("eos_token", 0))


def ending(checkpoint: Checkpoint) -> tuple[int | None, list[Guess]]:
    """For models that pool the last token: the id that the tokenizer puts at the end of every text, None when it puts none."""
    first, second = checkpoint.text.encode("a"), checkpoint.text.encode("what is this")
    if first and second and first[-1] == second[-1] and first[-1] in checkpoint.text.ids.values():
        return first[-1], [Guess("ends with", f"token {first[-1]}", "what the tokenizer puts after every text")]
    return None, [
        Guess("ends with", "the text's own last token", "the tokenizer puts nothing after a text, though the last token is pooled")
    ]
