"""Content parts of messages and of the sides of a score: texts and media in the order of the list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from ...errors import InputError
from .contents import Content, Kind, Source, source_of

TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Type of a part -> key of its text."""
MEDIA: dict[str, tuple[Kind, str]] = {
    "image": ("image", "image"),
    "image_pil": ("image", "image_pil"),
    "image_url": ("image", "image_url"),
    "input_image": ("image", "image_url"),
    "image_embeds": ("image", "image_embeds"),
    "video": ("video", "video"),
    "video_url": ("video", "video_url"),
}
"""Type of a part -> its kind, and the key of its data."""
SUPPORTED = (*TEXTS, *MEDIA)
Part = str | Source


def content(parts: Any, name: str, *, options: Mapping[str, object]) -> Content:
    """The record of a list of parts: media in their order, texts joined by newlines. Raises InputError."""
    read = parts_of(parts, name)
    return Content(
        "\n".join(part for part in read if isinstance(part, str)),
        tuple(part for part in read if isinstance(part, Source)),
        options=options,
    )


def parts_of(content: Any, name: str) -> list[Part]:
    """The texts and media of a message's content, which is text or a list of parts. Raises InputError."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if isinstance(content, bytes | bytearray) or not isinstance(content, Sequence):
        raise InputError(f"{name}: content must be text or a list of parts", field="messages")
    return [_part(part, f"{name}: part {index}") for index, part in enumerate(content)]


def has_video(messages: Sequence[Any]) -> bool:
    """Whether a part of a message is a video. Nothing is decoded, and what cannot be read is none."""
    return any(
        isinstance(part, Mapping) and MEDIA.get(str(_kind_of(part)), ("",))[0] == "video"
        for message in messages
        if isinstance(message, Mapping) and isinstance(message.get("content"), list | tuple)
        for part in message["content"]
    )


def _kind_of(part: Mapping[str, Any]) -> Any:
    """The type that a part states. As in vLLM, it may be known by its key; None: it is not."""
    kind = part.get("type")
    return next((key for key in part if key in SUPPORTED), None) if kind is None else kind


def _part(part: Any, name: str) -> Part:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise InputError(f"{name}: expected text or an object, found {type(part).__name__}", field="messages")
    kind = _kind_of(part)
    if kind is None:
        raise InputError(f"{name}: Missing 'type' field in multimodal part.", field="type")
    if kind in TEXTS:
        text = part.get(TEXTS[kind])
        if not isinstance(text, str):
            raise InputError(
                f"{name}: a part of type {kind!r} needs `{TEXTS[kind]}`, a string", field="messages"
            )
        return text
    if kind not in MEDIA:
        raise InputError(
            f"{name}: Unsupported chat content part type: {str(kind)[:100]!r}. Supported types: "
            f"{', '.join(SUPPORTED)}.",
            field="type",
        )
    modality, key = MEDIA[kind]
    value = part.get(key)
    uuid = part.get("uuid")
    if key.endswith("_url") and value is not None:
        value = from_url(value, name, field=key)
    if key == "image_embeds" and value is not None:
        value = {"image_embeds": value}
    source = source_of(modality, value, None if uuid is None else str(uuid), name)
    fps = part.get("fps")
    return source if fps is None else source_of(modality, (value, {"fps": fps}), source.uuid, name)


def from_url(value: Any, name: str, *, field: str) -> bytes | list[bytes]:
    """The bytes in a data: URL, or the pictures in one of video/jpeg. Raises InputError: URLs of other
    schemes are opened by `poolrt serve` only, which checks where they lead.

    Args:
        value: a URL, or {"url": URL}.
    """
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise InputError(f"{name}: `{field}` needs `url`, a string", field=field)
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "data":
        known = scheme.lower() in ("http", "https", "file")
        raise InputError(
            f"{name}: a URL of scheme {scheme[:20]!r} is not opened here; pass the picture, its bytes or its "
            "path as {'type': 'image', 'image': ...}"
            if known
            else f"{name}: The URL must be either a HTTP, data or file URL.",
            field=field,
        )
    head, comma, body = rest.partition(",")
    if not comma:
        raise InputError(f"{name}: a data: URL has a comma in front of its data", field=field)
    media_type, *parameters = head.lower().split(";")
    if "base64" not in [parameter.strip() for parameter in parameters]:
        return unquote_to_bytes(body)
    if media_type.strip() == "video/jpeg":
        return [_decoded(frame, name, field) for frame in body.split(",")]
    return _decoded(body, name, field)


def _decoded(body: str, name: str, field: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name}: not base64: {error}", field=field) from None
