"""A query and a document as one item for a cross-encoder: the tokenizer's pair encoding, plain concatenation,
or a score template.

The pair encoding is put together from the tokens of both sides, so that a query with a hundred documents is
tokenised once. The lengths after truncation are those of the tokenizers library (tests compare them).

This file is long because the three ways to write a pair share what cuts its two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Encoding

from ..errors import InputError
from . import templates, truncation
from .encoder import Encoder
from .items import Item, Style, TokenLimits

PairText = Callable[[str, str], str]
"""The text of a pair: (query, document) -> text."""
MOST_CHARACTERS = 1 << 26
"""Most characters of all pairs that are joined as text before they are tokenised."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """How the pairs of one artifact are put together."""

    encoder: Encoder
    style: Style
    type_ids: bool
    """Whether a graph of the artifact has the input `token_type_ids`."""


def explain(queries: Sequence[str], documents: Sequence[str]) -> None:
    """Raises InputError that names the first text which the tokenizer cannot read."""
    for side, name in ((queries, "queries"), (documents, "documents")):
        for index, text in enumerate(side):
            truncation.check_text(text, f"{name}[{index}]", field=name)


def check_counts(first: Sized, second: Sized) -> None:
    """Raises InputError unless the counts of both sides are 1:1, 1:N or N:N. vLLM's clients compare these
    sentences literally."""
    if len(first) > 1 and len(first) != len(second):
        raise InputError("Input lengths must be either 1:1, 1:N or N:N")
    if not len(first):
        raise InputError("At least one text element must be given")
    if not len(second):
        raise InputError("At least one text_pair element must be given")


def matched(queries: Sequence[str], documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both sides at the same length. Raises InputError unless the counts are 1:1, 1:N or N:N."""
    sides = []
    for side, name in ((queries, "queries"), (documents, "documents")):
        if isinstance(side, str) or not isinstance(side, Sequence):
            raise InputError(f"{name}: expected a list of texts, found {type(side).__name__}", field=name)
        for index, text in enumerate(side):
            if not isinstance(text, str):
                truncation.check_text(text, f"{name}[{index}]", field=name)
        sides.append(list(side))
    first, second = sides
    check_counts(first, second)
    return first * len(second) if len(first) == 1 else first, second


def items(
    pairing: Pairing,
    queries: list[str],
    documents: list[str],
    *,
    limits: TokenLimits,
    template: str | None,
    variables: Mapping[str, Any] | None,
    max_tokens_per_query: int,
    max_tokens_per_doc: int,
) -> list[Item]:
    """One item per (query, document), of lists of equal length. Raises InputError as `Preparation.pairs`
    does."""
    encoder = pairing.encoder
    limits = before_end(encoder, limits)
    kept = encoder.kept(limits)
    templates.check_variables(variables)
    whole = list(zip(queries, documents, strict=True))
    if max_tokens_per_query:
        queries = cut_texts(encoder, queries, max_tokens_per_query)
    if max_tokens_per_doc:
        documents = cut_texts(encoder, documents, max_tokens_per_doc)
    if template is not None:
        pairs = _from_template(pairing, template, variables or {}, queries, documents, kept, limits)
    elif encoder.text.pair == "concatenate":
        pairs = _from_joined(encoder, queries, documents, kept, limits)
    else:
        pairs = _from_sides(pairing, queries, documents, kept, limits, bool(max_tokens_per_doc))
    for item, before, after in zip(pairs, whole, zip(queries, documents, strict=True), strict=True):
        item.truncated = item.truncated or before != after
        if encoder.text.pair_end is not None:
            item.ids.append(encoder.text.pair_end)
            item.prompt_tokens += 1
    return pairs


def before_end(encoder: Encoder, limits: TokenLimits) -> TokenLimits:
    """The limits of what stands in front of the token that ends every pair, where the model has one."""
    if encoder.text.pair_end is None:
        return limits
    kept = encoder.kept(limits)
    return replace(
        limits,
        max_tokens=encoder.limit(limits) - 1,
        truncate_prompt_tokens=None if kept is None else max(kept - 1, 0),
    )


# The tokenizer's pair encoding


def _from_sides(
    pairing: Pairing,
    queries: list[str],
    documents: list[str],
    kept: int | None,
    limits: TokenLimits,
    only_second: bool,
) -> list[Item]:
    encoder = pairing.encoder
    limit = encoder.limit(limits)
    joint, side, own = encoder.joint, limits.truncation_side, encoder.text.truncation_side
    wanted = (limit if kept is None else kept) + 1
    first = _contents(encoder, queries, wanted, side or own)
    second = _contents(encoder, documents, wanted, side or own)
    items = []
    for index, (query, document) in enumerate(zip(first, second, strict=True)):
        if not documents[index] and pairing.style == "vllm":
            # vLLM gives each pair to the tokenizer alone, which takes an empty second text for a missing one:
            # [CLS] query [SEP].
            items.extend(encoder.from_texts([queries[index]], [index], kept, limits, True))
            continue
        total = len(query.ids) + len(document.ids) + joint.added
        if kept is None and total > limit:
            raise encoder.too_long(total, limit, index, "" if query.whole and document.whole else "at least ")
        if kept is None or total <= kept:
            sizes, cut = (len(query.ids), len(document.ids)), None
        elif limits.cut_document or (only_second and side is None):
            room = kept - joint.added - len(query.ids)
            if room < 0 or (room == 0 and not limits.cut_document):
                raise _query_too_long(index, len(query.ids) + joint.added, kept)
            sizes, cut = (len(query.ids), room), None
        elif side is None and kept >= joint.added:
            sizes, cut = truncation.longest_first(len(query.ids), len(document.ids), kept - joint.added), None
        else:
            sizes, cut = (
                (len(query.ids), len(document.ids)),
                slice(total - kept, None) if side == "left" else slice(kept),
            )
        kept_ids = [
            truncation.cut(part.ids, size, own if side is None else "right")
            for part, size in zip((query, document), sizes, strict=True)
        ]
        ids = joint.join(*kept_ids)
        types = joint.type_ids(*sizes) if pairing.type_ids else None
        if cut is not None:
            ids, types = ids[cut], types[cut] if types is not None else None
        items.append(encoder.item(ids, index, type_ids=types, truncated=kept is not None and total > kept))
    return items


def _contents(
    encoder: Encoder, texts: list[str], wanted: int, side: truncation.Side
) -> list[truncation.Content]:
    """Tokens of each text without special tokens. Equal texts are tokenised once."""
    different = list(dict.fromkeys(texts))
    whole = truncation.WHOLE * max(wanted, 32)
    short = [text for text in different if len(text) <= whole]
    encoded = truncation.encode(encoder.tokenizer, short, add_special_tokens=False) if short else []
    contents = {text: truncation.Content(ids, whole=True) for text, ids in zip(short, encoded, strict=True)}
    for text in different:
        if text not in contents:
            contents[text] = truncation.content(encoder.tokenizer, text, wanted, encoder.boundaries, side)
    return [contents[text] for text in texts]


def _query_too_long(index: int, needed: int, kept: int) -> InputError:
    return InputError(
        f"input {index}: the query and what stands around the document need {needed} tokens of {kept}, no "
        "document fits. Please reduce the length of the input prompt: shorten the query, or "
        "set max_tokens_per_query.",
        field="input_tokens",
    )


# One text per pair


def _from_joined(
    encoder: Encoder, queries: list[str], documents: list[str], kept: int | None, limits: TokenLimits
) -> list[Item]:
    def joined(query: str, document: str) -> str:
        return query + document

    return _from_texts(encoder, joined, queries, documents, kept, limits, protect=limits.cut_document)


def _from_template(
    pairing: Pairing,
    template: str,
    variables: Mapping[str, Any],
    queries: list[str],
    documents: list[str],
    kept: int | None,
    limits: TokenLimits,
) -> list[Item]:
    encoder = pairing.encoder

    wanted = templates.content_format(template)

    def rendered(query: str, document: str) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return templates.conversation(
            template,
            templates.messages_for(messages, wanted),
            special_tokens=encoder.text.special_tokens,
            variables=variables,
        )

    protect = limits.cut_document or (pairing.style == "model" and limits.truncation_side is None)
    items = _from_texts(encoder, rendered, queries, documents, kept, limits, protect=protect)
    # A prompt in front of a token of its own ends with the query: what was cut is the document already.
    fitted = limits.cut_document or encoder.text.pair_end is not None
    if not protect or fitted or not any(item.truncated for item in items):
        return items
    # The end of a template holds the question that the model answers, so a score without it means nothing.
    # Sentence Transformers cuts the text at its limit and then writes the template's end over the last
    # tokens.
    end = _common_end(encoder, rendered)
    whole = [rendered(query, document) for query, document in zip(queries, documents, strict=True)]
    for index, item in enumerate(items):
        if item.truncated:
            [again] = encoder.from_texts(
                [whole[index]], [index], kept, limits, encoder.text.add_special_tokens
            )
            item.ids[:] = [*again.ids[: len(again.ids) - len(end)], *end]
            item.prompt_tokens = len(item.ids)
    return items


def _common_end(encoder: Encoder, rendered: Callable[[str, str], str]) -> list[int]:
    """The tokens that a template puts behind every pair: those that two different pairs have in common."""
    texts = [rendered(filler, filler) for filler in ("0", "1 2 3 4")]
    first, second = truncation.encode(
        encoder.tokenizer, texts, add_special_tokens=encoder.text.add_special_tokens
    )
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return first[len(first) - count :] if count < min(len(first), len(second)) else []


def _from_texts(
    encoder: Encoder,
    text_of: PairText,
    queries: list[str],
    documents: list[str],
    kept: int | None,
    limits: TokenLimits,
    *,
    protect: bool,
) -> list[Item]:
    add_special_tokens = encoder.text.add_special_tokens
    size = sum(map(len, queries)) + sum(map(len, documents))
    if size > MOST_CHARACTERS:  # the query counts once for each document
        raise InputError(
            f"query and documents are {size} characters as {len(queries)} pairs, and {MOST_CHARACTERS} are "
            "read at once; send fewer documents per request, or a shorter query",
            field="input_text",
        )
    texts = [text_of(query, document) for query, document in zip(queries, documents, strict=True)]
    items = encoder.from_texts(texts, range(len(texts)), kept, limits, add_special_tokens)
    if protect and kept is not None:
        for index, item in enumerate(items):
            if item.truncated:
                text = _fitted(encoder, text_of, queries[index], documents[index], kept, index)
                items[index] = encoder.from_texts([text], [index], kept, limits, add_special_tokens)[0]
                items[index].truncated = True
    return items


def _fitted(encoder: Encoder, text_of: PairText, query: str, document: str, kept: int, index: int) -> str:
    """The text of the pair with as much of the document as fits into `kept` tokens. The rest stays whole."""

    def tokens(text: str) -> int:
        truncation.check_whole(len(text), f"input {index}", field="input_text")
        return len(
            truncation.encode(encoder.tokenizer, [text], add_special_tokens=encoder.text.add_special_tokens)[
                0
            ]
        )

    room = kept - tokens(text_of(query, ""))
    while room > 0:
        text = text_of(query, cut_texts(encoder, [document], room)[0])
        over = tokens(text) - kept
        if over <= 0:
            return text
        room -= over
    text = text_of(query, "")
    if (needed := tokens(text)) > kept:
        raise _query_too_long(index, needed, kept)
    return text


def cut_texts(encoder: Encoder, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Each text up to the character where its token `max_tokens` ends.

    The caller tokenises the cut text again, which may then have another last token where a merge reached over
    the cut. So it is cut further until it has no more than `max_tokens`.
    """
    cut = dict.fromkeys(texts, "")
    for text in cut:
        cut[text] = _cut_text(encoder, text, max_tokens)
    return [cut[text] for text in texts]


def _cut_text(encoder: Encoder, text: str, max_tokens: int) -> str:
    def encoded(part: str) -> Encoding:
        with truncation.failures("a text"):
            return encoder.tokenizer.encode_batch([part], add_special_tokens=False)[0]

    for part in _beginnings(text, max_tokens + 1, encoder.boundaries):
        tokens = encoded(part)
        if len(tokens.ids) > max_tokens:
            break
    else:
        return text
    while len(tokens.ids) > max_tokens:
        end = min(tokens.offsets[max_tokens - 1][1], tokens.offsets[max_tokens][0])
        part = part[: min(end, len(part) - 1)]
        tokens = encoded(part)
    return part


def _beginnings(text: str, tokens: int, boundaries: truncation.Boundaries) -> Iterator[str]:
    """Growing beginnings of a text, cut where their tokens are those of the whole text. The last one is the
    whole text. Raises InputError as `truncation.check_looked_at` does."""
    characters = max(tokens, 32) * truncation.CHARACTERS_PER_TOKEN
    while characters * truncation.WHOLE < len(text) * truncation.CHARACTERS_PER_TOKEN:
        if end := boundaries.last(text, characters):
            yield text[:end]
        characters *= truncation.GROWTH
        truncation.check_looked_at(text, characters, tokens)
    yield text
