"""Prompts with pictures and videos as items: written by the template of a role or as they are, tokenised, and
with the places of their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import Manifest, Role, RoleName
from ...errors import InputError
from .. import chunks, colbert, templates, truncation
from ..items import Item, Steps, Style, TokenLimits
from ..media.medium import Medium
from ..preparation import PairOptions, Preparation, SingleOptions
from ..prompts import token_ids
from . import conversations, fitting, media_pairs, prompt_forms
from .contents import Content, Kind, in_order
from .media_reading import MediaReading
from .placeholders import Placeholders
from .positions import mrope

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Of models without one of their own, as vLLM has it for CLIP, SigLIP and ColPali."""
PICTURE_ID = 0
"""Stands in `prompt_token_ids` for a picture that is embedded without a prompt, as in vLLM."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How the prompts of one call are to be written."""

    plan: Role | None
    prefix: str
    suffix: str
    template: str | None
    """Of the role; None: prefix, media, text, suffix."""
    instruction: str
    kept: int | None
    limits: TokenLimits
    add_special_tokens: bool


class MultimodalPreparation(Preparation):
    """The preparation of a model that reads pictures. Prompts without any are prepared as those of other
    models.

    Args:
        reading: prepares the media; shared by the preparations of one model.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, reading: MediaReading, *, style: Style = "model"
    ) -> None:
        super().__init__(folder, manifest, style=style)
        if self.chat_template is None:
            self.chat_template = PLAIN_TEMPLATE
        self.reading = reading
        self.images = reading.images
        self.placeholders = Placeholders(reading.images)
        tokenizer = self.encoder.tokenizer
        self._feature_ids: dict[Kind, int] = {}
        for kind, token in self.placeholders.tokens.items():
            if (number := tokenizer.token_to_id(token)) is not None:
                self._feature_ids[kind] = number
        self._fixed_ids = np.array(sorted(tokenizer.get_added_tokens_decoder()), np.int64)
        text = manifest.graph("text")
        self._positions = any(tensor.name == "position_ids" for tensor in text.inputs)

    def in_style(self, style: Style) -> MultimodalPreparation:
        return MultimodalPreparation(self.folder, self.manifest, self.reading, style=style)

    def prompts_from(self, value: Any) -> list[Any]:
        """As `Preparation.prompts_from`; a picture is one prompt."""
        prompts = prompt_forms.prompts_from(value)
        if not prompts:
            raise InputError("You must pass at least one prompt", field="input")
        return prompts

    # Singles

    def singles(self, prompts: Sequence[Any], **options: Unpack[SingleOptions]) -> list[Item]:
        """One item per prompt; see `single_steps`."""
        return _collected(self.single_steps(prompts, **options))

    def single_steps(self, prompts: Sequence[Any], **options: Unpack[SingleOptions]) -> Steps:
        """One item per prompt, in any form of `prompt_forms`: first those without pictures, then each of the
        others. Raises InputError.

        A role's template writes texts and pictures of a declared role, or of the default one. Texts without
        special tokens are written already, and so are prompts in vLLM's form {"prompt": ...}, unless a role
        is declared.
        """
        role = options.get("role")
        contents = [prompt_forms.content(prompt, f"input {index}") for index, prompt in enumerate(prompts)]
        for content in contents:  # all of them before the first is decoded
            self.reading.check_counts(content)
        wanted = self._wanted(options)
        templates = [self._template(wanted, content, role) for content in contents]
        plain = [
            index
            for index, (content, template) in enumerate(zip(contents, templates, strict=True))
            if not content.media
            and template is None
            and not (wanted.suffix and isinstance(content.text, str))
        ]
        if plain or not contents:
            texts = [contents[index].text for index in plain]
            items = super().singles(texts, **options)
            yield dict(zip(plain, items, strict=True))
        texts = {
            index: self._item(wanted, content, templates[index], index)
            for index, content in enumerate(contents)
            if not content.media and index not in plain
        }
        if texts:
            yield texts
        for index, content in enumerate(contents):
            if content.media:
                yield {index: self._item(wanted, content, templates[index], index)}

    def _wanted(self, options: SingleOptions) -> _Wanted:
        limits = options.get("limits") or TokenLimits()
        prompt_name, instruction = options.get("prompt_name"), options.get("instruction")
        add_special_tokens = options.get("add_special_tokens", True)
        plan = self.role(options.get("role"))
        template = plan.template if plan is not None and add_special_tokens else None
        prompt = self.prompt(prompt_name)
        if instruction is None and template is not None and prompt:
            instruction = prompt  # a stored prompt is the instruction of a template
        return _Wanted(
            plan=plan,
            prefix=prompt if prompt_name is not None else plan.prefix if plan is not None else "",
            suffix="" if plan is None else plan.suffix,
            template=template,
            instruction=self.text.instruction if instruction is None else instruction,
            kept=self._kept(plan, limits),
            limits=limits,
            add_special_tokens=add_special_tokens and self.text.add_special_tokens,
        )

    def _template(self, wanted: _Wanted, content: Content, role: RoleName | None) -> str | None:
        """The template that writes a prompt; None: it is written as it is."""
        if not isinstance(content.text, str) or (content.finished and role is None):
            return None
        return None if self.images.apart and content.media else wanted.template

    def _item(self, wanted: _Wanted, content: Content, template: str | None, index: int) -> Item:
        name = f"input {index}"
        if self.images.apart and content.media:
            return self.apart(content, name)
        limits = self.whole(wanted.limits) if content.media else wanted.limits
        room = self.encoder.limit(limits) if wanted.kept is None else wanted.kept
        media = self.reading.read(content, name, room=room)
        if not isinstance(content.text, str):
            return self._from_ids(wanted, content, media, index)
        # Some templates hold the special tokens themselves.
        special = wanted.add_special_tokens and (
            template is None or wanted.plan is None or wanted.plan.add_special_tokens
        )
        if template is None and media and self.images.prompt is not None:
            template, special = self.images.prompt, False
        missing = self.placeholders.missing(content, name) if media else ()
        placeholders = self.placeholders.of(in_order(missing) if template else missing)

        def written(text: str) -> str:
            if template is None:
                return wanted.prefix + placeholders + text + wanted.suffix
            variables = {
                "text": wanted.prefix + text + wanted.suffix if template is self.images.prompt else text,
                "media": placeholders,
                "images": content.count("image"),
                "videos": content.count("video"),
                "instruction": wanted.instruction,
            }
            return templates.render(template, variables)

        whole, ordered = self.placeholders.expanded(written(content.text), media, name)

        def tokens(text: str) -> list[int]:
            again = (
                whole if text is content.text else self.placeholders.expanded(written(text), media, name)[0]
            )
            return self.tokens(again, special)

        ids = tokens(content.text)
        kept, limit = wanted.kept, self.encoder.limit(limits)
        if kept is None and len(ids) > limit:
            raise self.encoder.too_long(len(ids), limit, index)
        truncated = kept is not None and len(ids) > kept
        if kept is not None and truncated:
            side = limits.truncation_side or self.text.truncation_side
            inline = len(missing) < len(content.media)
            if (template is not None or wanted.suffix) and not inline:
                ids = fitting.fitted(self.encoder, tokens, content.text, kept, side, index)
            else:
                ids = self._shortened(ids, ordered, kept, limits, index)
        return self.attached(self.encoder.item(ids, index, truncated=truncated), ordered, index, wanted.plan)

    def tokens(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of a text. Raises InputError for one that is no valid Unicode."""
        truncation.check_text(text, "prompt")
        if self.text.lowercase:
            text = text.lower()
        return truncation.encode(self.encoder.tokenizer, [text], add_special_tokens=add_special_tokens)[0]

    def whole(self, limits: TokenLimits) -> TokenLimits:
        """The limits of a prompt with pictures, which is never computed in pieces (chunks.limits)."""
        return replace(limits, max_tokens=None) if limits.max_tokens == chunks.UNLIMITED else limits

    def _shortened(
        self, ids: list[int], media: Sequence[Medium], kept: int, limits: TokenLimits, index: int
    ) -> list[int]:
        """The ids of a prompt as it is, cut to `kept` tokens around its pictures."""
        side = limits.truncation_side
        features = self._features(ids, media)
        if side is not None:  # the list of ids is cut, special tokens too, where no picture is lost
            sliced = slice(len(ids) - kept, None) if side == "left" else slice(kept)
            if features[sliced].sum() == features.sum():
                return ids[sliced]
        fixed = features | np.isin(ids, self._fixed_ids)
        return fitting.dropped(ids, fixed, kept, side or self.text.truncation_side, index)[0]

    def _from_ids(self, wanted: _Wanted, content: Content, media: list[Medium], index: int) -> Item:
        """Token ids in which one token stands for each medium, or all of them already."""
        ids = token_ids(content.text, index, self.text.vocab_size) if len(content.text) else []
        name = f"input {index}"
        if int(self._features(ids, media).sum()) != sum(medium.tokens for medium in media):
            ids, media = self._expanded_ids(ids, media, name)
        limits = self.whole(wanted.limits)
        kept, limit = wanted.kept, self.encoder.limit(limits)
        if kept is None and len(ids) > limit:
            raise self.encoder.too_long(len(ids), limit, index)
        truncated = kept is not None and len(ids) > kept
        if kept is not None and truncated:
            ids = self._shortened(ids, media, kept, limits, index)
        return self.attached(self.encoder.item(ids, index, truncated=truncated), media, index, wanted.plan)

    def _expanded_ids(
        self, ids: list[int], media: Sequence[Medium], name: str
    ) -> tuple[list[int], list[Medium]]:
        """The ids with the k-th token of a kind replaced by the tokens of the k-th medium; without such a
        token the media come first."""
        kinds: dict[int, Kind] = {number: kind for kind, number in self._feature_ids.items()}
        present: dict[Kind, int] = {kind: ids.count(number) for number, kind in kinds.items()}
        if not any(present.values()):
            texts = "".join(medium.text for medium in media)
            return [*self.tokens(texts, False), *ids], list(media)
        wanted: dict[Kind, int] = {kind: sum(medium.kind == kind for medium in media) for kind in present}
        self.placeholders.check(wanted, present, name)
        waiting = {kind: [medium for medium in media if medium.kind == kind] for kind in present}
        expanded: list[int] = []
        ordered: list[Medium] = []
        for number in ids:
            if number not in kinds:
                expanded.append(number)
                continue
            medium = waiting[kinds[number]].pop(0)
            ordered.append(medium)
            expanded += self.tokens(self.placeholders.core(medium), False)
        return expanded, ordered

    # Items with features

    def apart(self, content: Content, name: str) -> Item:
        """The item of a picture that is embedded without a prompt. Raises InputError where there is text."""
        if len(content.text):
            called = self.manifest.architecture.removesuffix("Model").replace("Siglip", "SigLIP")  # vLLM's
            raise InputError(
                f"{name}: {called} accepts text-only or image-only inputs, not both! You must pass an image "
                "with an empty token prompt.",
                field="multi_modal_data",
            )
        if len(content.media) != 1:
            raise InputError("At most 1 image(s) may be provided in one prompt.", field="image")
        [medium] = self.reading.read(content, name)
        return Item(ids=[PICTURE_ID], prompt_tokens=1, vision=medium.items)

    def attached(self, item: Item, media: Sequence[Medium], index: int, plan: Role | None = None) -> Item:
        """The item with the places of its features, after what a role does to its ids. Raises InputError
        where its tokens are not those of its media."""
        if plan is not None:
            item = colbert.apply(plan, item)
        if not media:
            return item
        places = np.flatnonzero(self._features(item.ids, media)).astype(np.int64)
        wanted = sum(medium.tokens for medium in media)
        if len(places) != wanted:
            raise InputError(
                f"input {index}: its media have {wanted} features, and the prompt has {len(places)} tokens "
                "for them; remove the model's picture tokens from the text",
                field="prompt",
            )
        item.feature_places = places
        item.vision = tuple(row for medium in media for row in medium.items)
        item.feature_order = _order(media)
        if self._positions:
            item.positions = mrope(item.ids, places, [grid for medium in media for grid in medium.grids])
        return item

    def _features(self, ids: Sequence[int], media: Sequence[Medium]) -> NDArray[np.bool_]:
        """[tokens]: which stand for features."""
        kinds = {medium.kind for medium in media}
        return np.isin(ids, [number for kind, number in self._feature_ids.items() if kind in kinds])

    # Pairs, conversations, counts

    def pairs(
        self, queries: Sequence[Any], documents: Sequence[Any], **options: Unpack[PairOptions]
    ) -> list[Item]:
        """As `Preparation.pairs`; either side may be a `Content`."""
        return _collected(self.pair_steps(queries, documents, **options))

    def pair_steps(
        self, queries: Sequence[Any], documents: Sequence[Any], **options: Unpack[PairOptions]
    ) -> Steps:
        """The items of pairs in steps: first those without pictures, then each of the others."""
        return media_pairs.steps(self, queries, documents, **options)

    def text_pairs(
        self, queries: Sequence[str], documents: Sequence[str], **options: Unpack[PairOptions]
    ) -> list[Item]:
        """Pairs without pictures."""
        return super().pairs(queries, documents, **options)

    def side(self, item: Any, name: str) -> Any:
        """One side of a score: its text, or its Content where it has media. Raises InputError."""
        content = prompt_forms.content(item, name, field=name)
        if not isinstance(content.text, str):
            raise InputError(
                f"{name}: expected text or a picture, found {type(item).__name__}", field=name.split("[")[0]
            )
        self.reading.check_counts(content)
        return content if content.media else content.text

    def cut_side(self, texts: Sequence[Any], max_tokens: int) -> list[Any]:
        """As `Preparation.cut_side`; of a Content its text is cut."""
        words = super().cut_side(
            [text.text if isinstance(text, Content) else text for text in texts], max_tokens
        )
        return [
            replace(text, text=word) if isinstance(text, Content) else word
            for text, word in zip(texts, words, strict=True)
        ]

    def _messages(
        self, messages: Sequence[Mapping[str, Any]], wanted: templates.ContentFormat, *, interleaved: bool
    ) -> tuple[list[dict[str, Any]], Callable[[str], Any]]:
        """A conversation with media becomes {"prompt": text, "multi_modal_data": ...}, which `singles`
        takes."""
        plain, media = conversations.messages_for(
            messages, wanted, self.placeholders, interleaved=interleaved
        )
        return plain, lambda text: conversations.prompt(text, media)

    def prompt_tokens(self, prompt: Any, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a prompt in any form, whatever its length, expanded picture tokens included; no role
        applies. Raises InputError."""
        content = prompt_forms.content(prompt, "prompt", field="prompt")
        if isinstance(content.text, str) and not content.media:
            return super().prompt_tokens(content.text, add_special_tokens=add_special_tokens)
        wanted = _Wanted(
            plan=None,
            prefix="",
            suffix="",
            template=None,
            instruction="",
            kept=None,
            limits=TokenLimits(max_tokens=chunks.UNLIMITED - 1),
            add_special_tokens=add_special_tokens,
        )
        return self._item(wanted, content, None, 0).ids


def _collected(steps: Steps) -> list[Item]:
    """The items of all steps in their order."""
    items = {index: item for step in steps for index, item in step.items()}
    return [items[index] for index in range(len(items))]


def _order(media: Sequence[Medium]) -> NDArray[np.int64] | None:
    """`Item.feature_order` of a prompt's media."""
    if all(medium.order is None for medium in media):
        return None
    starts = np.cumsum([0, *[medium.rows for medium in media]])
    return np.concatenate(
        [
            start + (np.arange(medium.rows) if medium.order is None else medium.order)
            for start, medium in zip(starts[:-1], media, strict=True)
        ]
    )
