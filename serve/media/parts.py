"""The parts of a message's or an item's content, by the rules that vLLM reads them with.

A part is text, or names a picture or a video: by URL, by a `uuid` under which it was sent before, or both.
The object of a part may lack `type` where its key says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ApiError

Modality = Literal["image", "video"]
TEXT = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Type of a part -> the key of its text."""
MOST_UUID = 256
"""Characters."""
_SKIPPED = ("text", "refusal")
"""A part of these types that holds null is left out."""
_KNOWN = (
    *TEXT, "image_url", "input_image", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds",
    "audio_url", "input_audio", "video_url", "tool_reference",
)  # fmt: skip
_KEYS = (
    "image_url", "image_pil", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "audio_url",
    "input_audio", "video_url", "tool_reference",
)  # fmt: skip
"""Keys that say what a part without a type is, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or a video of a request."""

    modality: Modality
    url: str | None
    """None: it was sent before, under `uuid`."""
    uuid: str | None
    place: str
    """Where it stands in the body: `messages[0].content[1]`."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """A picture whose vectors the client computed."""

    value: Any
    """base64, or an object of names -> base64 or numbers."""
    uuid: str | None
    place: str
    modality: Modality = "image"


Part = str | Source | Vectors


def has_media(content: Any) -> bool:
    """Returns whether a content has a part that is not known to be text."""
    return isinstance(content, list) and any(
        isinstance(part, Source | Vectors) or (isinstance(part, Mapping) and part.get("type") not in TEXT)
        for part in content
    )


def read(content: Sequence[Any], place: str, *, vectors: bool = False) -> list[Part]:
    """Returns the parts of a content. Raises ApiError (400) for one that vLLM refuses too, and for sound.

    Args:
        vectors: whether clients may send vectors of pictures (--enable-mm-embeds).
    """
    parts = []
    for index, part in enumerate(content):
        if isinstance(part, str | Source | Vectors):
            parts.append(part)
        elif isinstance(part, Mapping):
            parts += _read(part, f"{place}[{index}]", vectors)
        else:
            raise ApiError(400, f"{place}[{index}]: expected text or an object", param="type")
    return parts


def _read(part: Mapping[str, Any], place: str, vectors: bool) -> list[Part]:
    kind, value = _kind(part, place)
    if kind in TEXT:
        if value is None and kind in _SKIPPED:
            return []
        if not isinstance(value, str):
            raise ApiError(
                400, f"{place}: a part of type {kind!r} needs `{TEXT[kind]}`, a string", param="type"
            )
        return [value]
    match kind:
        case "image_url" | "input_image":
            return [_source("image", kind, value, part, place)]
        case "video_url":
            return [_source("video", kind, value, part, place)]
        case "audio_url" | "input_audio" | "audio_embeds":
            raise ApiError(
                400,
                f"At most 0 audio(s) may be provided in one prompt. (parameter=audio) {place}: no model here "
                "takes sound",
                param="audio",
            )
        case "image_embeds" if vectors:
            if value is None:
                raise ApiError(400, f"{place}: a part of type 'image_embeds' needs vectors", param=kind)
            return [Vectors(value, _uuid(part, place), place)]
        case "image_embeds" | "video_embeds" | "prompt_embeds":
            raise ApiError(
                400,
                f"You must set `--enable-mm-embeds` to input `{kind}` (parameter={kind}). {place}: send the "
                "picture or the text itself, this server computes its vectors",
                param=kind,
            )
        case "tool_reference" if isinstance(value, str):
            return [value]
        case _:
            known = ", ".join(sorted(_KNOWN))
            raise ApiError(
                400,
                f"Unsupported chat content part type: {str(kind)[:100]!r}. Supported types: {known}. "
                f"(parameter=type, value={str(kind)[:100]}) {place}",
                param="type",
            )


def _kind(part: Mapping[str, Any], place: str) -> tuple[str, Any]:
    """Returns the type of a part and what it holds. Raises ApiError."""
    kind, uuid = part.get("type"), part.get("uuid")
    if kind is not None and not isinstance(kind, str):
        raise ApiError(
            400, f"Invalid 'type' field in multimodal part. (parameter=type) {place}", param="type"
        )
    if kind in TEXT:
        return kind, part.get(TEXT[kind])
    if kind in ("image_url", "input_image"):
        return kind, part.get("image_url")
    if kind == "tool_reference":
        return kind, part.get("name")
    if kind is not None:
        return kind, part.get(kind)
    for key in _KEYS:
        if key in part:
            if isinstance(part[key], Mapping) and uuid is None:
                break
            return key, part.get("name" if key == "tool_reference" else key)
    if isinstance(part.get("text"), str):
        return "text", part["text"]
    raise ApiError(400, f"Missing 'type' field in multimodal part. (parameter=type) {place}", param="type")


def _source(modality: Modality, kind: str, value: Any, part: Mapping[str, Any], place: str) -> Source:
    """Returns the source that a part names. Raises ApiError."""
    url = value.get("url") if isinstance(value, Mapping) else value
    uuid = _uuid(part, place)
    if url is not None and not isinstance(url, str):
        raise ApiError(400, f"{place}: a part of type {kind!r} needs a URL, a string")
    if not url and uuid is None:
        raise ApiError(400, f"{place}: a part of type {kind!r} needs a URL")
    return Source(modality, url or None, uuid, place)


def _uuid(part: Mapping[str, Any], place: str) -> str | None:
    """Returns the uuid of a part; None: it has none. Raises ApiError."""
    uuid = part.get("uuid")
    if uuid is None:
        return None
    if not isinstance(uuid, str | int) or len(str(uuid)) > MOST_UUID:
        raise ApiError(
            400, f"{place}: uuid: expected a string of at most {MOST_UUID} characters", param="uuid"
        )
    return str(uuid)
