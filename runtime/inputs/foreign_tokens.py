"""Recognises token ids of another model's vocabulary, as far as that is possible.

By default LangChain's OpenAIEmbeddings tokenises with tiktoken and posts the ids. Most of them are valid ids
of any large vocabulary, but their vectors mean nothing. vLLM accepts any ids, with or without special tokens,
cut anywhere, so only ids that this tokenizer could hardly have written may be refused. The test is a round
trip: the ids are decoded, the text is tokenised again, and the ids that come back in order are counted.

Measured on 120 sentences, the share of ids that come back is

- 1.00 for a tokenizer's own ids, and at least 0.88 where the text is cut inside a word,
- 0.24 to 0.64 for tiktoken's cl100k and o200k read by BERT's vocabulary (16 tokens and more),
- 0.5 to 1.0, with a median of 0.87, for the same read by byte-level vocabularies of 65 000 and 129 000 ids,
- at least 0.62 for random ids read by BERT's vocabulary.

So a share below `SURE` is foreign from any client. A share below 1 is foreign from a client that is known to
post tiktoken's ids. Vocabularies made from tiktoken's (Llama 3, Qwen) read its ids rightly.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from . import truncation
from .encoder import Encoder

SURE = 0.65
# Shorter lists prove too little, and test requests often hold a few invented ids.
ENOUGH = 12
LOOKED_AT = 256


def looks_foreign(
    prompts: Sequence[Sequence[int]], encoder: Encoder, *, suspected: bool = False
) -> str | None:
    """Why these ids are not this tokenizer's; None where they may be.

    Args:
        suspected: the client is an OpenAI library, which may post foreign ids. Then a single id that does not
        come back is enough.
    """
    vocab_size, before = encoder.text.vocab_size, encoder.before
    same = looked_at = 0
    for ids in prompts:
        outside = next((number for number in ids if not 0 <= number < vocab_size), None)
        if outside is not None:
            return f"id {outside} is out of vocabulary ({vocab_size} ids)"
        if before and list(ids[: len(before)]) == before:
            return None
        if looked_at < LOOKED_AT:
            sample = list(ids[:LOOKED_AT])
            same += _returning(sample, encoder)
            looked_at += len(sample)
    if not looked_at or same == looked_at:
        return None
    if suspected or (looked_at >= ENOUGH and same < SURE * looked_at):
        return f"read as text and tokenised again, only {same} of {looked_at} ids come back"
    return None


def _returning(ids: list[int], encoder: Encoder) -> int:
    """How many of the ids come back, in order."""
    text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
    again = truncation.encode(encoder.tokenizer, [text], add_special_tokens=False)[0]
    if again == ids:
        return len(ids)
    return sum(
        block.size
        for block in difflib.SequenceMatcher(None, ids, again, autojunk=False).get_matching_blocks()
    )
