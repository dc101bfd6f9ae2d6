"""Prompts with pictures and videos as items: written by the template of a role or as they are, tokenised, and
with the places of their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ...artifact.manifest import Manifest, Role, RoleName
from ...errors import InputError
from .. import chunks, colbert, templates, truncation
from ..items import Item, Steps, Style, TokenLimits
from ..media.medium import Medium
from ..preparation import PairOptions, Preparation, SingleOptions
from ..prompts import token_ids
from . import content_parts, conversations, fitting, media_pairs, prompt_forms
from .contents import Content
from .feature_tokens import FeatureTokens, feature_order
from .media_reading import MediaReading
from .placeholders import Placeholders
from .positions import mrope
from .written_prompts import Form, WrittenPrompt

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Of models without one of their own, as vLLM has it for CLIP, SigLIP and ColPali."""
PICTURE_ID = 0
"""Stands in `prompt_token_ids` for a picture that is embedded without a prompt, as in vLLM."""


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
        self._feature_tokens = FeatureTokens(self.encoder.tokenizer, self.placeholders)
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
        form = self._form(options)
        templates = [self._template(form, content, role) for content in contents]
        plain = [
            index
            for index, (content, template) in enumerate(zip(contents, templates, strict=True))
            if not content.media and template is None and not (form.suffix and isinstance(content.text, str))
        ]
        if plain or not contents:
            texts = [contents[index].text for index in plain]
            items = super().singles(texts, **options)
            yield dict(zip(plain, items, strict=True))
        texts = {
            index: self._item(form, content, templates[index], index)
            for index, content in enumerate(contents)
            if not content.media and index not in plain
        }
        if texts:
            yield texts
        for index, content in enumerate(contents):
            if content.media:
                yield {index: self._item(form, content, templates[index], index)}

    def _form(self, options: SingleOptions) -> Form:
        limits = options.get("limits") or TokenLimits()
        prompt_name, instruction = options.get("prompt_name"), options.get("instruction")
        add_special_tokens = options.get("add_special_tokens", True)
        plan = self.role(options.get("role"))
        template = plan.template if plan is not None and add_special_tokens else None
        prompt = self.prompt(prompt_name)
        if instruction is None and template is not None and prompt:
            instruction = prompt  # a stored prompt is the instruction of a template
        return Form(
            plan=plan,
            prefix=prompt if prompt_name is not None else plan.prefix if plan is not None else "",
            suffix="" if plan is None else plan.suffix,
            template=template,
            instruction=self.text.instruction if instruction is None else instruction,
            kept=self._kept(plan, limits),
            limits=limits,
            add_special_tokens=add_special_tokens and self.text.add_special_tokens,
        )

    def _template(self, form: Form, content: Content, role: RoleName | None) -> str | None:
        """The template that writes a prompt; None: it is written as it is."""
        if not isinstance(content.text, str) or (content.finished and role is None):
            return None
        return None if self.images.apart and content.media else form.template

    def _item(self, form: Form, content: Content, template: str | None, index: int) -> Item:
        """The item of one prompt, with its media. Raises InputError."""
        name = f"input {index}"
        if self.images.apart and content.media:
            return self.apart(content, name)
        limits = self.whole(form.limits) if content.media else form.limits
        limit = self.encoder.limit(limits)
        media = self.reading.read(content, name, room=limit if form.kept is None else form.kept)
        if isinstance(content.text, str):
            prompt = WrittenPrompt(
                form, template, content, media, images=self.images, placeholders=self.placeholders, name=name
            )
            ids, media = self.tokens(prompt.whole, prompt.add_special_tokens), prompt.media
        else:
            prompt = None
            ids = token_ids(content.text, index, self.text.vocab_size) if len(content.text) else []
            ids, media = self._feature_tokens.expanded(
                ids, media, name, lambda text: self.tokens(text, False)
            )
        if form.kept is None and len(ids) > limit:
            raise self.encoder.too_long(len(ids), limit, index)
        truncated = form.kept is not None and len(ids) > form.kept
        if form.kept is not None and truncated:
            ids = self._cut(ids, media, prompt, content, form.kept, limits, index)
        return self.attached(self.encoder.item(ids, index, truncated=truncated), media, index, form.plan)

    def _cut(
        self,
        ids: list[int],
        media: Sequence[Medium],
        prompt: WrittenPrompt | None,
        content: Content,
        kept: int,
        limits: TokenLimits,
        index: int,
    ) -> list[int]:
        """The ids of a prompt that is too long: its text loses tokens inside what stands around it, or the
        ids lose them."""
        own = self.text.truncation_side
        if prompt is None or not prompt.is_framed:
            return self._feature_tokens.shortened(ids, media, kept, limits.truncation_side, own, index)

        def tokens(text: str) -> list[int]:
            return self.tokens(prompt.around(text), prompt.add_special_tokens)

        return fitting.fitted(self.encoder, tokens, content.text, kept, limits.truncation_side or own, index)

    def tokens(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of a text. Raises InputError for one that is no valid Unicode."""
        truncation.check_text(text, "prompt")
        if self.text.lowercase:
            text = text.lower()
        return truncation.encode(self.encoder.tokenizer, [text], add_special_tokens=add_special_tokens)[0]

    def whole(self, limits: TokenLimits) -> TokenLimits:
        """The limits of a prompt with pictures, which is never computed in pieces (chunks.limits)."""
        return replace(limits, max_tokens=None) if limits.max_tokens == chunks.UNLIMITED else limits

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
        places = np.flatnonzero(self._feature_tokens.mask(item.ids, media)).astype(np.int64)
        wanted = sum(medium.tokens for medium in media)
        if len(places) != wanted:
            raise InputError(
                f"input {index}: its media have {wanted} features, and the prompt has {len(places)} tokens "
                "for them; remove the model's picture tokens from the text",
                field="prompt",
            )
        item.feature_places = places
        item.vision = tuple(row for medium in media for row in medium.items)
        item.feature_order = feature_order(media)
        if self._positions:
            item.positions = mrope(item.ids, places, [run for medium in media for run in medium.runs])
        return item

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

    def _chat_template(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        videos = self.images.videos
        if videos is not None and videos.conversation and content_parts.has_video(messages):
            return videos.conversation
        return super()._chat_template(messages)

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
        form = Form(
            plan=None,
            prefix="",
            suffix="",
            template=None,
            instruction="",
            kept=None,
            limits=TokenLimits(max_tokens=chunks.UNLIMITED - 1),
            add_special_tokens=add_special_tokens,
        )
        return self._item(form, content, None, 0).ids


def _collected(steps: Steps) -> list[Item]:
    """The items of all steps in their order."""
    items = {index: item for step in steps for index, item in step.items()}
    return [items[index] for index in range(len(items))]
