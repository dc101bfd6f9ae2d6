"""Tells token ids of another model's vocabulary from this one's own, as far as that can be told.

LangChain's OpenAIEmbeddings tokenises with tiktoken unless told not to and posts the ids: most are valid ids
of any large vocabulary, and their vectors mean nothing. vLLM takes any ids, with special tokens or without,
cut anywhere, so only what this tokenizer could hardly have written may be refused. The mark is the round
trip: ids read as text, and that text tokenised again.

Measured on 120 sentences (share of ids that come back, in order): a tokenizer's own ids 1.00, cut
inside a word 0.88 and more; tiktoken's cl100k and o200k read by BERT's vocabulary 0.24 to 0.64 (16
tokens and more); read by byte-level vocabularies of 65 000 and 129 000 ids 0.5 to 1.0, in the middle
0.87. Ids drawn at random: 0.62 and more by BERT's. So a share below `SURE` is foreign whoever sends it,
and a share below 1 is foreign from a client that is known to do this. Vocabularies made from tiktoken's
(Llama 3, Qwen) read its ids rightly.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from . import truncation
from .encoder import Encoder

SURE = 0.65
# Shorter lists say too little: test requests often hold a few made-up ids.
ENOUGH = 12
LOOKED_AT = 256


def looks_foreign(
    prompts: Sequence[Sequence[int]], encoder: Encoder, *, suspected: bool = False
) -> str | None:
    """Why these ids are not this tokenizer's; None when they may be.

    Args:
        suspected: the client is one that posts foreign ids (an OpenAI library): then a single token that does
        not come back is enough.
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
    text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
    again = truncation.encode(encoder.tokenizer, [text], add_special_tokens=False)[0]
    if again == ids:
        return len(ids)
    return sum(
        block.size
        for block in difflib.SequenceMatcher(None, ids, again, autojunk=False).get_matching_blocks()
    )
