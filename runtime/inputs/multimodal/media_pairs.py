"""A query and a document, of which one has pictures, as one item for a cross-encoder.

The pictures of each side stand in front of its text. What is too long loses text of the document.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Unpack

from ...errors import InputError
from .. import pairs, templates
from ..encoder import Encoder
from ..items import Item, Steps, TokenLimits
from ..media.medium import Medium
from ..preparation import PairOptions
from . import fitting
from .contents import Content
from .media_reading import MediaReading
from .placeholders import Placeholders

_FORMS: tuple[templates.ContentFormat, ...] = ("string", "openai")
MARKS = ("poolrt-query-mark", "poolrt-document-mark")
"""Texts that show in which order a template writes its two sides."""


class Own(Protocol):
    """What the preparation of a model gives to its pairs."""

    encoder: Encoder
    reading: MediaReading
    placeholders: Placeholders
    type_ids: bool
    score_template: str | None

    def tokens(self, text: str, add_special_tokens: bool) -> list[int]: ...
    def whole(self, limits: TokenLimits) -> TokenLimits: ...
    def attached(self, item: Item, media: Sequence[Medium], index: int) -> Item: ...
    def check_side_limit(self, value: int, name: str) -> None: ...
    def cut_side(self, texts: Sequence[Any], max_tokens: int) -> list[Any]: ...
    def text_pairs(
        self, queries: Sequence[str], documents: Sequence[str], **options: Unpack[PairOptions]
    ) -> list[Item]: ...


def steps(
    own: Own,
    queries: Sequence[str | Content],
    documents: Sequence[str | Content],
    *,
    limits: TokenLimits | None = None,
    template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
    max_tokens_per_query: int = 0,
    max_tokens_per_doc: int = 0,
) -> Steps:
    """One item per (query, document); a single query goes with every document. Pairs without pictures come
    first, then each of the others. Raises InputError."""
    pairs.check_counts(queries, documents)
    templates.check_variables(template_variables)
    own.check_side_limit(max_tokens_per_query, "max_tokens_per_query")
    own.check_side_limit(max_tokens_per_doc, "max_tokens_per_doc")
    limits = own.whole(limits or TokenLimits())
    first = _sides(own.cut_side(queries, max_tokens_per_query), len(documents))
    second = _sides(own.cut_side(documents, max_tokens_per_doc), len(documents))
    whole = zip(_sides(queries, len(documents)), _sides(documents, len(documents)), strict=True)
    shortened = [
        query.text != before.text or document.text != after.text
        for query, document, (before, after) in zip(first, second, whole, strict=True)
    ]
    template = own.score_template if template is None else template
    variables = template_variables or {}
    writer = _Writer(own, template, variables)
    # A template that takes parts only would read the letters of a text as parts.
    plain = [
        index
        for index in range(len(second))
        if not (first[index].media or second[index].media) and writer.takes_text
    ]
    if plain:
        texts = [[side[index].text for index in plain] for side in (first, second)]
        several = own.text_pairs(
            *texts, limits=limits, template=template, template_variables=template_variables
        )
        for index, item in zip(plain, several, strict=True):
            item.truncated = item.truncated or shortened[index]
        yield dict(zip(plain, several, strict=True))
    for index, (query, document) in enumerate(zip(first, second, strict=True)):
        if query.media or document.media or not writer.takes_text:
            item = writer.item(query, document, limits, index)
            item.truncated = item.truncated or shortened[index]
            yield {index: item}


def _sides(sides: Sequence[str | Content], count: int) -> list[Content]:
    """One side of each pair. A single one goes with all of the other side."""
    contents = [side if isinstance(side, Content) else Content(side) for side in sides]
    return contents * count if len(contents) == 1 else contents


class _Writer:
    """Writes the pairs of one call."""

    def __init__(self, own: Own, template: str | None, variables: Mapping[str, Any]) -> None:
        self.own = own
        self.template = template
        self.variables = variables
        self._media: dict[int, list[Medium]] = {}
        self._sizes: list[int] = []
        """Tokens of the two sides of the last pair that was tokenised."""
        special_tokens = tuple(sorted(own.encoder.text.special_tokens.items()))
        self._layout = _Layout("string", False) if template is None else _layout(template, special_tokens)

    @property
    def takes_text(self) -> bool:
        """Whether the template takes a side as text."""
        return self._layout.form == "string"

    def item(self, query: Content, document: Content, limits: TokenLimits, index: int) -> Item:
        own, encoder = self.own, self.own.encoder
        limits = pairs.before_end(encoder, limits)
        kept, limit = encoder.kept(limits), encoder.limit(limits)
        room = limit if kept is None else kept
        media = [self._read(side, index, room) for side in (query, document)]
        ordered: list[Medium] = []

        def tokens(text: str) -> list[int]:
            ids, ordered[:] = self._tokens(query, document, text, media, f"input {index}")
            return ids

        ids = tokens(document.text)
        if kept is None and len(ids) > limit:
            raise encoder.too_long(len(ids), limit, index)
        truncated = kept is not None and len(ids) > kept
        if kept is not None and truncated:
            side = limits.truncation_side or encoder.text.truncation_side
            ids = fitting.fitted(encoder, tokens, document.text, kept, side, index)
        type_ids = self._type_ids(ids) if own.type_ids and self._apart() else None
        if encoder.text.pair_end is not None:
            ids = [*ids, encoder.text.pair_end]
        return own.attached(encoder.item(ids, index, type_ids=type_ids, truncated=truncated), ordered, index)

    def _read(self, side: Content, index: int, room: int) -> list[Medium]:
        """The media of a side, prepared once for all its pairs."""
        if id(side) not in self._media:
            self._media[id(side)] = self.own.reading.read(side, f"input {index}", room=room)
        return self._media[id(side)]

    def _apart(self) -> bool:
        """Whether the tokenizer puts its separator between the two sides."""
        return self.template is None and self.own.encoder.text.pair == "separator"

    def _tokens(
        self, query: Content, document: Content, text: str, media: Sequence[list[Medium]], name: str
    ) -> tuple[list[int], list[Medium]]:
        """The ids of the pair with `text` as the document's, and its media in the order of the tokens."""
        own, placeholders = self.own, self.own.placeholders
        fronts = [placeholders.of(placeholders.missing(side, name)) for side in (query, document)]
        if self._apart():
            joint = own.encoder.joint
            sides = [
                placeholders.expanded(front + words, several, name)
                for front, words, several in zip(fronts, (query.text, text), media, strict=True)
            ]
            self._sizes = [len(own.tokens(words, False)) for words, _ in sides]
            ids = joint.join(*(own.tokens(words, False) for words, _ in sides))
            return ids, [medium for _, several in sides for medium in several]
        if self.template is None:
            written, backwards = fronts[0] + query.text + fronts[1] + text, False
        else:
            contents = [
                self._content(side, front, words)
                for side, front, words in zip((query, document), fronts, (query.text, text), strict=True)
            ]
            written = self._rendered(contents[0], contents[1])
            backwards = self._layout.document_first
        listed = [*media[1], *media[0]] if backwards else [*media[0], *media[1]]
        whole, ordered = placeholders.expanded(written, listed, name)
        return own.tokens(whole, own.encoder.text.add_special_tokens), ordered

    def _type_ids(self, ids: Sequence[int]) -> list[int]:
        return self.own.encoder.joint.type_ids(self._sizes[0], self._sizes[1])

    def _content(self, side: Content, front: str, text: str) -> Any:
        """A side's content as the template wants it."""
        if self.takes_text:
            return front + text
        parts = [{"type": source.kind} for source in side.media] if front else []
        return [*parts, {"type": "text", "text": text}] if text or not parts else parts

    def _rendered(self, query: Any, document: Any) -> str:
        assert self.template is not None
        return templates.conversation(
            self.template,
            [{"role": "query", "content": query}, {"role": "document", "content": document}],
            special_tokens=self.own.encoder.text.special_tokens,
            variables=self.variables,
        )


class _Layout(NamedTuple):
    """How a template writes its two sides."""

    form: templates.ContentFormat
    document_first: bool


@functools.lru_cache(maxsize=64)
def _layout(template: str, special_tokens: tuple[tuple[str, str], ...]) -> _Layout:
    """Found by rendering two marks: as text, which vLLM's templates take, or as parts where the text of a
    side does not come out whole."""
    for form in _FORMS:
        contents = [mark if form == "string" else [{"type": "text", "text": mark}] for mark in MARKS]
        try:
            text = templates.conversation(
                template,
                [
                    {"role": role, "content": content}
                    for role, content in zip(("query", "document"), contents, strict=True)
                ],
                special_tokens=dict(special_tokens),
            )
        except InputError:  # a template that cannot do without its variables, or without parts
            continue
        query, document = (text.find(mark) for mark in MARKS)
        if query >= 0 and document >= 0:
            return _Layout(form, document < query)
    return _Layout("string", False)
