"""The record of a prompt with pictures and videos, and what one medium may be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import InputError

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("video", "image")
"""In the order of a prompt that says none: videos before pictures, as Qwen's authors write them."""


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or a video as the caller gave it."""

    kind: Kind
    data: Any
    """What `media.prepared` reads, the path of a file, or a function that returns the Medium when its turn
    comes, and whose errors name it already. None: it is known by its `uuid`."""
    fps: float | None = None
    """Of a video's frames."""
    uuid: str | None = None
    """A name under which later prompts may name it without sending it."""


@dataclass(frozen=True, slots=True)
class Content:
    """One prompt, or one side of a score."""

    text: Any = ""
    """Text, or token ids."""
    media: tuple[Source, ...] = ()
    """In the order in which they stand in front of a text without placeholders."""
    finished: bool = False
    """vLLM's form, which is tokenised as it is: the template of a default role does not apply."""
    options: Mapping[str, object] = field(default_factory=dict)
    """mm_processor_kwargs of this prompt."""

    def count(self, kind: Kind) -> int:
        return sum(source.kind == kind for source in self.media)


def is_picture(value: object) -> bool:
    """Whether it is a Pillow image or an array [height, width, channels]."""
    if isinstance(value, np.ndarray):
        return value.ndim == 3 and value.shape[2] in (1, 3, 4)
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def source_of(kind: Kind, value: Any, uuid: str | None, name: str) -> Source:
    """One medium as a caller wrote it: a video may be (frames, {"fps": ...}), as in vLLM. Raises
    InputError."""
    if kind == "video" and isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        frames, facts = value
        fps = facts.get("fps")
        return Source(kind, frames, None if fps is None else rate(fps, name), uuid)
    if value is None and uuid is None:
        raise InputError(f"{name}: it is None, and has no uuid", field="multi_modal_data")
    return Source(kind, value, None, uuid)


def rate(fps: Any, name: str) -> float:
    """Frames per second as a number. Raises InputError."""
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise InputError(
            f"{name}: fps is {fps!r}, expected frames per second above 0", field="multi_modal_data"
        )
    return float(fps)


def data_of(source: Source) -> Any:
    """What `media.prepared` reads: the bytes of a file, or the source's own data. Raises InputError for a
    file that cannot be read."""
    if not isinstance(source.data, str | os.PathLike):
        return source.data
    path = Path(source.data)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be read ({reason})", field="multi_modal_data") from None


def in_order(media: Iterable[Source]) -> list[Source]:
    """Videos first, then pictures, each in their order: as templates write them."""
    return sorted(media, key=lambda source: KINDS.index(source.kind))


def counted(media: Iterable[Source]) -> dict[Kind, int]:
    """How many media of each kind there are."""
    numbers: dict[Kind, int] = {}
    for source in media:
        numbers[source.kind] = numbers.get(source.kind, 0) + 1
    return numbers
