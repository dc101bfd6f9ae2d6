"""Texts of prompts with pictures, as the template of a role or the prompt's own form writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...artifact.images import Images
from ...artifact.manifest import Role
from .. import templates
from ..items import TokenLimits
from ..media.medium import Medium
from .contents import Content, in_order
from .placeholders import Placeholders


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the prompts of one call are written."""

    plan: Role | None
    prefix: str
    suffix: str
    template: str | None
    """Of the role; None: prefix, media, text, suffix."""
    instruction: str
    kept: int | None
    limits: TokenLimits
    add_special_tokens: bool


class WrittenPrompt:
    """One prompt with its media. Raises InputError where its placeholders are not those of its media.

    Args:
        form: of the call.
        template: that writes this prompt; None: the model's own for prompts with pictures, or none.
        content: whose text is a string.
        media: of the content, in its order.
        name: of the prompt, in errors.
    """

    def __init__(
        self,
        form: Form,
        template: str | None,
        content: Content,
        media: Sequence[Medium],
        *,
        images: Images,
        placeholders: Placeholders,
        name: str,
    ) -> None:
        # Some templates hold the special tokens themselves.
        self.add_special_tokens = form.add_special_tokens and (
            template is None or form.plan is None or form.plan.add_special_tokens
        )
        self._own = template is None and bool(media) and images.prompt is not None
        if self._own:
            template, self.add_special_tokens = images.prompt, False
        missing = placeholders.missing(content, name) if media else ()
        self._form, self._template, self._content = form, template, content
        self._unordered, self._name, self._placeholders = media, name, placeholders
        self._opening = images.opening if media and not self.add_special_tokens else ""
        self._in_front = placeholders.of(in_order(missing) if template else missing)
        self.is_framed = (template is not None or bool(form.suffix)) and len(missing) == len(content.media)
        """Whether something stands around the text that is no part of it, pictures included."""
        self.whole, self.media = self._expanded(content.text)
        """Its text with all tokens of features, and the media in the order of the text."""

    def around(self, text: str) -> str:
        """The whole prompt with another text in the place of its own."""
        return self.whole if text is self._content.text else self._expanded(text)[0]

    def _expanded(self, text: str) -> tuple[str, list[Medium]]:
        written = self._written(text)
        whole = written if written.startswith(self._opening) else self._opening + written
        return self._placeholders.expanded(whole, self._unordered, self._name)

    def _written(self, text: str) -> str:
        form = self._form
        if self._template is None:
            return form.prefix + self._in_front + text + form.suffix
        variables = {
            "text": form.prefix + text + form.suffix if self._own else text,
            "media": self._in_front,
            "images": self._content.count("image"),
            "videos": self._content.count("video"),
            "instruction": form.instruction,
        }
        return templates.render(self._template, variables)
