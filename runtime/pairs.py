"""A query and a document as one item for a cross-encoder: the tokenizer's pair encoding, plain concatenation, or a score template.

The pair encoding is put together here from the tokens of both sides, so one query with a hundred documents is tokenised once; the
lengths after truncation are those of the tokenizers library (tests compare them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tokenizers import Encoding, Tokenizer

from . import templates, truncation
from .errors import ArtifactError, InputError

if TYPE_CHECKING:
    from .text import Item, Limits, Preparation


MOST_CHARACTERS = 1 << 26
"""Of the texts of pairs that are joined before they are tokenised."""


class Joint(NamedTuple):
    """What a tokenizer puts around and between the two sides of a pair, as (ids, type ids)."""

    start: tuple[list[int], list[int]]
    middle: tuple[list[int], list[int]]
    end: tuple[list[int], list[int]]
    types: tuple[int, int]
    """Type ids of the two sides."""

    @property
    def added(self) -> int:
        return len(self.start[0]) + len(self.middle[0]) + len(self.end[0])

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        one, two = (tokenizer.encode(word, add_special_tokens=False).ids for word in ("a b", "c d e"))
        whole = tokenizer.encode("a b", "c d e", add_special_tokens=True)
        ids, types = whole.ids, whole.type_ids
        for first in range(len(ids) - len(one) - len(two) + 1):
            after = first + len(one)
            if ids[first:after] != one:
                continue
            for second in range(after, len(ids) - len(two) + 1):
                last = second + len(two)
                if ids[second:last] == two:
                    return cls(
                        (ids[:first], types[:first]),
                        (ids[after:second], types[after:second]),
                        (ids[last:], types[last:]),
                        (types[first] if one else 0, types[second] if two else 0),
                    )
        raise ArtifactError("tokenizer.json: its post-processor does not keep the tokens of a pair in order; export the artifact again")

    def join(self, query: list[int], document: list[int]) -> list[int]:
        return [*self.start[0], *query, *self.middle[0], *document, *self.end[0]]

    def type_ids(self, query: int, document: int) -> list[int]:
        return [*self.start[1], *[self.types[0]] * query, *self.middle[1], *[self.types[1]] * document, *self.end[1]]


def explain(queries: Sequence[str], documents: Sequence[str]) -> None:
    """Raises InputError naming the first text that the tokenizer cannot read."""
    for side, name in ((queries, "queries"), (documents, "documents")):
        for index, text in enumerate(side):
            truncation.check_text(text, f"{name}[{index}]", field=name)


def matched(queries: Sequence[str], documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both sides at the same length; raises InputError for other counts than 1:1, 1:N and N:N."""
    sides = []
    for side, name in ((queries, "queries"), (documents, "documents")):
        if isinstance(side, str) or not isinstance(side, Sequence):
            raise InputError(f"{name}: expected a list of texts, found {type(side).__name__}", field=name)
        for index, text in enumerate(side):
            if not isinstance(text, str):
                truncation.check_text(text, f"{name}[{index}]", field=name)
        sides.append(list(side))
    first, second = sides
    # vLLM's clients compare these three sentences literally.
    if len(first) > 1 and len(first) != len(second):
        raise InputError("Input lengths must be either 1:1, 1:N or N:N")
    if not first:
        raise InputError("At least one text element must be given")
    if not second:
        raise InputError("At least one text_pair element must be given")
    return first * len(second) if len(first) == 1 else first, second


def items(
    preparation: Preparation,
    queries: list[str],
    documents: list[str],
    *,
    limits: Limits,
    template: str | None,
    variables: Mapping[str, Any] | None,
    max_tokens_per_query: int,
    max_tokens_per_doc: int,
) -> list[Item]:
    """One item per (query, document), both lists of equal length. Raises InputError as `Preparation.pairs` says."""
    kept = preparation.kept(limits)
    templates.check_variables(variables)
    whole = list(zip(queries, documents, strict=True))
    if max_tokens_per_query:
        queries = cut_texts(preparation, queries, max_tokens_per_query)
    if max_tokens_per_doc:
        documents = cut_texts(preparation, documents, max_tokens_per_doc)
    if template is not None:
        made = _from_template(preparation, template, variables or {}, queries, documents, kept, limits)
    elif preparation.text.pair == "concatenate":
        made = _from_joined(preparation, queries, documents, kept, limits)
    else:
        made = _from_sides(preparation, queries, documents, kept, limits, bool(max_tokens_per_doc))
    for item, before, after in zip(made, whole, zip(queries, documents, strict=True), strict=True):
        item.truncated = item.truncated or before != after
    return made


# The tokenizer's pair encoding


def _from_sides(
    preparation: Preparation, queries: list[str], documents: list[str], kept: int | None, limits: Limits, only_second: bool
) -> list[Item]:
    limit = preparation.limit(limits)
    joint, side, own = preparation.joint, limits.truncation_side, preparation.text.truncation_side
    wanted = (limit if kept is None else kept) + 1
    first = _contents(preparation, queries, wanted, side or own)
    second = _contents(preparation, documents, wanted, side or own)
    made = []
    for index, (query, document) in enumerate(zip(first, second, strict=True)):
        if not documents[index] and preparation.style == "vllm":
            # vLLM gives each pair to the tokenizer alone, which takes an empty second text for none: [CLS] query [SEP].
            made.extend(preparation.from_texts([queries[index]], [index], kept, limits, True))
            continue
        total = len(query.ids) + len(document.ids) + joint.added
        if kept is None and total > limit:
            raise preparation.too_long(total, limit, index, "" if query.whole and document.whole else "at least ")
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
            sizes, cut = (len(query.ids), len(document.ids)), slice(total - kept, None) if side == "left" else slice(kept)
        kept_ids = [
            truncation.cut(part.ids, size, own if side is None else "right") for part, size in zip((query, document), sizes, strict=True)
        ]
        ids = joint.join(*kept_ids)
        types = joint.type_ids(*sizes) if preparation.wants_type_ids else None
        if cut is not None:
            ids, types = ids[cut], types[cut] if types is not None else None
        made.append(preparation.item(ids, index, type_ids=types, truncated=kept is not None and total > kept))
    return made


def _contents(preparation: Preparation, texts: list[str], wanted: int, side: truncation.Side) -> list[truncation.Content]:
    """Tokens of each text without special tokens; equal texts are tokenised once."""
    different = list(dict.fromkeys(texts))
    whole = truncation.WHOLE * max(wanted, 32)
    short = [text for text in different if len(text) <= whole]
    encoded = truncation.encode(preparation.tokenizer, short, add_special_tokens=False) if short else []
    found = {text: truncation.Content(ids, whole=True) for text, ids in zip(short, encoded, strict=True)}
    for text in different:
        if text not in found:
            found[text] = truncation.content(preparation.tokenizer, text, wanted, preparation.boundaries, side)
    return [found[text] for text in texts]


def _query_too_long(index: int, needed: int, kept: int) -> InputError:
    return InputError(
        f"input {index}: the query and what stands around the document need {needed} tokens of {kept}, no document fits. "
        "Please reduce the length of the input prompt: shorten the query, or set max_tokens_per_query.",
        field="input_tokens",
    )


# One text per pair


def _from_joined(preparation: Preparation, queries: list[str], documents: list[str], kept: int | None, limits: Limits) -> list[Item]:
    def joined(query: str, document: str) -> str:
        return query + document

    return _from_texts(preparation, joined, queries, documents, kept, limits, protect=limits.cut_document)


def _from_template(
    preparation: Preparation,
    template: str,
    variables: Mapping[str, Any],
    queries: list[str],
    documents: list[str],
    kept: int | None,
    limits: Limits,
) -> list[Item]:
    def rendered(query: str, document: str) -> str:
        return templates.conversation(
            template,
            [{"role": "query", "content": query}, {"role": "document", "content": document}],
            special_tokens=preparation.text.special_tokens,
            variables=variables,
        )

    protect = limits.cut_document or (preparation.style == "model" and limits.truncation_side is None)
    made = _from_texts(preparation, rendered, queries, documents, kept, limits, protect=protect)
    if not protect or limits.cut_document or not any(item.truncated for item in made):
        return made
    # A template's end carries the question that the model answers: cutting it off gives a score that means nothing. Sentence Transformers
    # cuts the text where its limit is, then writes the end of the template over the last tokens.
    end = _common_end(preparation, rendered)
    whole = [rendered(query, document) for query, document in zip(queries, documents, strict=True)]
    for index, item in enumerate(made):
        if item.truncated:
            [again] = preparation.from_texts([whole[index]], [index], kept, limits, preparation.text.add_special_tokens)
            item.ids[:] = [*again.ids[: len(again.ids) - len(end)], *end]
            item.prompt_tokens = len(item.ids)
    return made


def _common_end(preparation: Preparation, rendered: Callable[[str, str], str]) -> list[int]:
    """Tokens that a template puts behind every pair: those in which two unlike pairs end alike."""
    texts = [rendered(filler, filler) for filler in ("0", "1 2 3 4")]
    first, second = truncation.encode(preparation.tokenizer, texts, add_special_tokens=preparation.text.add_special_tokens)
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return first[len(first) - count :] if count < min(len(first), len(second)) else []


def _from_texts(
    preparation: Preparation, text_of: Any, queries: list[str], documents: list[str], kept: int | None, limits: Limits, *, protect: bool
) -> list[Item]:
    add_special_tokens = preparation.text.add_special_tokens
    size = sum(map(len, queries)) + sum(map(len, documents))
    if size > MOST_CHARACTERS:  # the query once for each document
        raise InputError(
            f"query and documents are {size} characters as {len(queries)} pairs, and {MOST_CHARACTERS} are read at once; "
            "send fewer documents per request, or a shorter query",
            field="input_text",
        )
    texts = [text_of(query, document) for query, document in zip(queries, documents, strict=True)]
    made = preparation.from_texts(texts, range(len(texts)), kept, limits, add_special_tokens)
    if protect and kept is not None:
        for index, item in enumerate(made):
            if item.truncated:
                text = _fitted(preparation, text_of, queries[index], documents[index], kept, index)
                made[index] = preparation.from_texts([text], [index], kept, limits, add_special_tokens)[0]
                made[index].truncated = True
    return made


def _fitted(preparation: Preparation, text_of: Any, query: str, document: str, kept: int, index: int) -> str:
    """The text of the pair with as much of the document as `kept` tokens hold, the rest whole."""

    def tokens(text: str) -> int:
        truncation.check_whole(len(text), f"input {index}", field="input_text")
        return len(truncation.encode(preparation.tokenizer, [text], add_special_tokens=preparation.text.add_special_tokens)[0])

    room = kept - tokens(text_of(query, ""))
    while room > 0:
        text = text_of(query, cut_texts(preparation, [document], room)[0])
        over = tokens(text) - kept
        if over <= 0:
            return text
        room -= over
    text = text_of(query, "")
    if (needed := tokens(text)) > kept:
        raise _query_too_long(index, needed, kept)
    return text


def cut_texts(preparation: Preparation, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Each text up to the character where its token `max_tokens` ends.

    Cut text is tokenised again by the caller, and may then have another last token (a merge that reached over the cut); it is cut
    further until it has no more than `max_tokens`.
    """
    made = []
    memory: dict[str, str] = {}
    for text in texts:
        if text not in memory:
            memory[text] = _cut_text(preparation, text, max_tokens)
        made.append(memory[text])
    return made


def _cut_text(preparation: Preparation, text: str, max_tokens: int) -> str:
    def encoded(part: str) -> Encoding:
        with truncation.failures("a text"):
            return preparation.tokenizer.encode_batch([part], add_special_tokens=False)[0]

    for part in truncation.heads(text, max_tokens + 1, preparation.boundaries):
        found = encoded(part)
        if len(found.ids) > max_tokens:
            break
    else:
        return text
    while len(found.ids) > max_tokens:
        end = min(found.offsets[max_tokens - 1][1], found.offsets[max_tokens][0])
        part = part[: min(end, len(part) - 1)]
        found = encoded(part)
    return part
