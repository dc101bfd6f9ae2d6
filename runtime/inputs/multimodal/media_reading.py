"""From the sources of a prompt to prepared media. Their number is checked before anything is decoded, and a
name (uuid) stands for what was sent before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ... import cancellation
from ...artifact.images import Images
from ...errors import InputError
from ..items import VisionItem
from ..media import options as media_options
from ..media import prepared
from ..media.medium import Medium
from . import given_features
from .contents import Content, Kind, Source, counted, data_of

NAMES = 4096
"""Most uuids that are remembered, without pixels or features."""
NAMED_CHARACTERS = 8 * 1024 * 1024
"""Of the prompts of all media that are remembered: one has a word for each feature, a video ten thousands."""
Row = NDArray[np.float32]


class MediaReading:
    """Prepares the media of one model. Safe to use from many threads.

    Args:
        most: most media of one prompt, by kind (`limit_mm_per_prompt`); a kind that is left out has the
            model's own limit.
        options: mm_processor_kwargs of every prompt that does not change them.
        width: of a row of features.
    """

    def __init__(
        self,
        images: Images,
        *,
        most: Mapping[str, int] | None = None,
        options: Mapping[str, object] | None = None,
        width: int = 0,
    ) -> None:
        self.images = images
        self.options = dict(options or {})
        self.width = width
        self.features_of: Callable[[bytes], Row | None] = lambda digest: None
        """Features that are kept of a picture's digest."""
        for video in (False, True) if images.videos else (False,):
            media_options.applied(images, self.options, video=video)
        own: dict[Kind, int | None] = {"image": images.most, "video": None if images.videos else 0}
        self._most = {
            kind: limit if most is None or kind not in most else min(most[kind], own_limit(limit))
            for kind, limit in own.items()
        }
        self._raisable = {
            kind: limit for kind, limit in (most or {}).items() if limit < own_limit(own[_kind(kind)])
        }
        self._names: OrderedDict[str, Medium] = OrderedDict()
        self._named_characters = 0
        self._lock = threading.Lock()

    def check_counts(self, content: Content) -> None:
        """Raises InputError for more media than a prompt may have."""
        for kind, count in counted(content.media).items():
            limit = self._most[kind]
            if limit is None or count <= limit:
                continue
            hint = " Set `--limit-mm-per-prompt` to increase this limit." if kind in self._raisable else ""
            raise InputError(f"At most {limit} {kind}(s) may be provided in one prompt.{hint}", field=kind)

    def read(self, content: Content, name: str, *, room: int | None = None) -> list[Medium]:
        """The media of a prompt, in its order. Raises InputError that calls the prompt `name`.

        Args:
            room: most tokens of the prompt. Media are never cut, so that the rest is not prepared where those
                before it need more. None: any number.
        """
        self.check_counts(content)
        options = {**self.options, **content.options}
        indices: dict[Kind, int] = {}
        media: list[Medium] = []
        tokens = 0
        for source in content.media:
            cancellation.check()
            if room is not None and tokens > room:
                raise InputError(
                    f"{name}: the first {len(media)} of its {len(content.media)} pictures and videos need "
                    f"{tokens} tokens, and it may have {room}. Please reduce the length of the input prompt: "
                    "send fewer or smaller pictures, or lower max_pixels in mm_processor_kwargs.",
                    field="input_tokens",
                )
            index = indices.get(source.kind, 0)
            indices[source.kind] = index + 1
            media.append(self._medium(source, options, name, index))
            tokens += media[-1].tokens
        return media

    def _medium(self, source: Source, options: Mapping[str, object], name: str, index: int) -> Medium:
        if source.data is None:
            return self._known(source, index)
        if callable(source.data):
            return self._kept(source, cast(Callable[[], Medium], source.data)())
        try:
            medium = self._prepared(source, options)
        except InputError as error:
            # Which of many pictures is broken.
            raise InputError(f"{name}: {source.kind} {index}: {error}", field=error.field) from None
        return self._kept(source, medium)

    def _kept(self, source: Source, medium: Medium) -> Medium:
        if source.uuid is not None:
            self._remember(source.uuid, medium)
        return medium

    def _prepared(self, source: Source, options: Mapping[str, object]) -> Medium:
        data = data_of(source)
        if isinstance(data, Mapping):
            return self._embedded(source.kind, data)
        if source.kind == "image":
            return prepared.image(self.images, data, options=options)
        return prepared.video(self.images, data, fps=source.fps, options=options)

    def _known(self, source: Source, index: int) -> Medium:
        """What a uuid was sent with before, with its features, which must still be kept."""
        with self._lock:
            medium = self._names.get(source.uuid or "")
        if medium is not None and medium.kind == source.kind:
            rows = [self.features_of(item.digest) for item in medium.items]
            if all(row is not None for row in rows):
                items = [replace(item, features=row) for item, row in zip(medium.items, rows, strict=True)]
                return replace(medium, items=tuple(items))
        raise InputError(
            f"Cache miss for {source.kind} at index {index} but data is not provided.", field="uuid"
        )

    def _remember(self, uuid: str, medium: Medium) -> None:
        bare = tuple(VisionItem({}, item.rows, item.cost, item.digest) for item in medium.items)
        with self._lock:
            if (before := self._names.pop(uuid, None)) is not None:
                self._named_characters -= len(before.text)
            self._names[uuid] = replace(medium, items=bare)
            self._named_characters += len(medium.text)
            while len(self._names) > NAMES or self._named_characters > NAMED_CHARACTERS:
                self._named_characters -= len(self._names.popitem(last=False)[1].text)

    def _embedded(self, kind: Kind, data: Mapping[str, Any]) -> Medium:
        """A picture whose features the caller computed: {"image_embeds": [rows, width], "image_grid_thw"}."""
        return given_features.medium(self.images, kind, data, width=self.width)


def own_limit(limit: int | None) -> int:
    """A model's own limit as a number."""
    return 1 << 30 if limit is None else limit


def _kind(name: str) -> Kind:
    return "video" if name == "video" else "image"


def options_from(
    mm_processor_kwargs: Mapping[str, Any] | None, media_io_kwargs: Mapping[str, Any] | None
) -> dict[str, object]:
    """Both as one, where the former win. vLLM's `media_io_kwargs` says how many frames of a video are read:
    {"video": {"num_frames": 16}}. Raises InputError."""
    for name, value in (
        ("mm_processor_kwargs", mm_processor_kwargs),
        ("media_io_kwargs", media_io_kwargs),
    ):
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{name}: expected an object, found {type(value).__name__}", field=name)
    options: dict[str, object] = {}
    for kind, value in (media_io_kwargs or {}).items():
        if not isinstance(value, Mapping):
            raise InputError(
                f"media_io_kwargs: {kind}: expected an object, found {type(value).__name__}",
                field="media_io_kwargs",
            )
        if unknown := [key for key in value if kind != "video" or key not in ("fps", "num_frames")]:
            raise InputError(
                f"media_io_kwargs: {kind}: {', '.join(map(repr, unknown))} is not followed here; known are "
                "'fps' and 'num_frames' of 'video'",
                field="media_io_kwargs",
            )
        options |= value
    return options | dict(mm_processor_kwargs or {})


def limits_from(value: Mapping[str, Any] | None) -> dict[str, int]:
    """`limit_mm_per_prompt` as kind -> count. vLLM's {"image": {"count": 2, ...}} is read too. Raises
    InputError."""
    if value is not None and not isinstance(value, Mapping):
        raise InputError(
            f"limit_mm_per_prompt: expected an object, found {type(value).__name__}",
            field="limit_mm_per_prompt",
        )
    limits: dict[str, int] = {}
    for kind, limit in (value or {}).items():
        count = limit.get("count") if isinstance(limit, Mapping) else limit
        if kind not in ("image", "video", "audio"):
            raise InputError(
                f"limit_mm_per_prompt: unknown kind {kind!r}; known are 'image' and 'video'",
                field="limit_mm_per_prompt",
            )
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(
                f"limit_mm_per_prompt: {kind} is {limit!r}, expected a whole number from 0",
                field="limit_mm_per_prompt",
            )
        if kind != "audio":  # which no model of ours reads
            limits[kind] = count
    return limits
