"""What stands for pictures and videos in a prompt: put in front of a text, counted, and replaced by the
tokens of their features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...artifact.images import Images
from ...errors import InputError
from ..media.medium import Medium
from .contents import Content, Kind, Source

NUMBER = "{number}"
"""In a placeholder: the number of its medium among those of its kind, from 1."""


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
        # A prompt may have the bare token in place of the whole placeholder. The token of a picture may stand
        # for the features of a video too (SmolVLM); in a prompt it is a picture.
        self._kinds: dict[str, Kind] = {}
        for kind, text in self.texts.items():
            for word in filter(None, (text, self.tokens[kind])):
                self._kinds.setdefault(word, kind)
        longest = sorted(self._kinds, key=len, reverse=True)
        words = "|".join(map(re.escape, longest)).replace(re.escape(NUMBER), "[0-9]{1,4}")
        self._pattern = re.compile(words) if words else None
        self._numbered: dict[Kind, list[str]] = {
            kind: text.split(NUMBER) for kind, text in self.texts.items() if NUMBER in text
        }

    def named(self, kinds: Sequence[Kind]) -> list[str]:
        """The placeholders of media of those kinds, in their order."""
        return [
            self.texts[kind].replace(NUMBER, str(kinds[: place + 1].count(kind)))
            for place, kind in enumerate(kinds)
        ]

    def of(self, media: Sequence[Source]) -> str:
        """The placeholders of media, one behind the other."""
        return "".join(self.named([source.kind for source in media]))

    def _read(self, word: str) -> tuple[Kind, int | None]:
        """The kind of a word that the pattern has found, and its number where it has one."""
        if word in self._kinds:
            return self._kinds[word], None
        for kind, (before, after) in self._numbered.items():
            number = word.removeprefix(before).removesuffix(after)
            if word == before + number + after:
                return kind, int(number)
        raise AssertionError(f"the pattern finds placeholders only, not {word!r}")

    def counts(self, text: str) -> dict[Kind, int]:
        """How many placeholders of each kind are in a text."""
        counts: dict[Kind, int] = dict.fromkeys(self.texts, 0)
        if self._pattern is not None:
            for match in self._pattern.finditer(text):
                counts[self._read(match.group())[0]] += 1
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
            placeholder = self.texts[kind].replace(NUMBER, "1")
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
        numbered: dict[Kind, dict[int, Medium]] = {
            kind: dict(enumerate(several, start=1)) for kind, several in waiting.items()
        }

        def replaced(match: re.Match[str]) -> str:
            word = match.group()
            kind, number = self._read(word)
            if number is None:
                medium = waiting[kind].pop(0)
            elif (medium := numbered[kind].pop(number, None)) is None:
                raise InputError(
                    f"{name}: found {word} twice or beyond the number of its {kind}s; number them from 1",
                    field="prompt",
                )
            ordered.append(medium)
            return self.core(medium) if word == self.tokens[kind] != self.texts[kind] else medium.text

        return self._pattern.sub(replaced, text), ordered

    def core(self, medium: Medium) -> str:
        """The part of a medium's text that replaces a bare token: from its first token to its last."""
        token = self.tokens[medium.kind]
        first, last = medium.text.find(token), medium.text.rfind(token)
        return medium.text[first : last + len(token)]
