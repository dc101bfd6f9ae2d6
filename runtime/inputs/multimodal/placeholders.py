"""What stands for pictures and videos in a prompt: put in front of a text, counted, and replaced by the
tokens of their features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...artifact.images import Images
from ...errors import InputError
from ..media.medium import Medium
from .contents import Content, Kind, Source


class Placeholders:
    """The placeholders of one model."""

    def __init__(self, images: Images) -> None:
        self.written = images.prompt is None
        """Whether the text of a message holds them; otherwise a template puts them around it."""
        self.texts: dict[Kind, str] = {"image": images.placeholder}
        self.tokens: dict[Kind, str] = {"image": images.token}
        if images.videos is not None:
            self.texts["video"] = images.videos.placeholder
            self.tokens["video"] = images.videos.token
        # A prompt may have the bare token in place of the whole placeholder.
        self._kinds: dict[str, Kind] = {}
        for kind, text in self.texts.items():
            self._kinds |= {word: kind for word in (text, self.tokens[kind]) if word}
        longest = sorted(self._kinds, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest))) if longest else None

    def of(self, media: Sequence[Source]) -> str:
        """The placeholders of media, one behind the other."""
        return "".join(self.texts[source.kind] for source in media)

    def counts(self, text: str) -> dict[Kind, int]:
        """How many placeholders of each kind are in a text."""
        counts: dict[Kind, int] = dict.fromkeys(self.texts, 0)
        if self._pattern is not None:
            for match in self._pattern.finditer(text):
                counts[self._kinds[match.group()]] += 1
        return counts

    def missing(self, content: Content, name: str) -> tuple[Source, ...]:
        """The media that a text has no placeholder for: all of them, or none. Raises InputError where it has
        placeholders of another number."""
        wanted: dict[Kind, int] = {kind: content.count(kind) for kind in self.texts}
        present = self.counts(content.text)
        if not any(present.values()):
            return content.media
        self.check(wanted, present, name)
        return ()

    def check(self, wanted: Mapping[Kind, int], present: Mapping[Kind, int], name: str) -> None:
        """Raises InputError where a text does not have a placeholder for each medium."""
        for kind, count in wanted.items():
            number = present.get(kind, 0)
            if number == count:
                continue
            placeholder = self.texts[kind]
            if number > count:
                raise InputError(
                    f"{name}: Found more '{placeholder}' placeholders in input prompt than actual multimodal "
                    f"data items: {number} of {count}",
                    field="prompt",
                )
            raise InputError(
                f"{name}: Expected there to be {count} prompt placeholders corresponding to {count} {kind} "
                f"items, but instead found {number} prompt placeholders! Write '{placeholder}' for each, or "
                "leave them all out",
                field="prompt",
            )

    def expanded(self, text: str, media: Sequence[Medium], name: str) -> tuple[str, list[Medium]]:
        """The text with the k-th placeholder of a kind replaced by the text of the k-th medium of that kind,
        and the media in the order of the text. Raises InputError where the numbers differ."""
        if self._pattern is None:
            return text, []
        waiting: dict[Kind, list[Medium]] = {kind: [] for kind in self.texts}
        for medium in media:
            waiting[medium.kind].append(medium)
        self.check({kind: len(several) for kind, several in waiting.items()}, self.counts(text), name)
        ordered: list[Medium] = []

        def replaced(match: re.Match[str]) -> str:
            word = match.group()
            kind = self._kinds[word]
            medium = waiting[kind].pop(0)
            ordered.append(medium)
            return medium.text if word == self.texts[kind] else self.core(medium)

        return self._pattern.sub(replaced, text), ordered

    def core(self, medium: Medium) -> str:
        """The part of a medium's text that replaces a bare token: from its first token to its last."""
        token = self.tokens[medium.kind]
        first, last = medium.text.find(token), medium.text.rfind(token)
        return medium.text[first : last + len(token)]
