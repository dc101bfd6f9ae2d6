"""Messages with content parts: as their template wants to see them, with their media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError
from ..templates import ContentFormat
from .content_parts import parts_of
from .contents import Kind, Source
from .placeholders import Placeholders


def messages_for(
    messages: Sequence[Mapping[str, Any]],
    wanted: ContentFormat,
    placeholders: Placeholders,
    *,
    interleaved: bool,
) -> tuple[list[dict[str, Any]], list[Source]]:
    """Messages with their content in the format `wanted`, and all their media in order.

    As text, a message has the placeholders of its media in front, each on a line, or where they stand in the
    list if `interleaved` (vLLM's --interleave-mm-strings). Raises InputError for messages without a role and
    for parts that cannot be read.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("messages must be a list of at least one message", field="messages")
    plain: list[dict[str, Any]] = []
    media: list[Source] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"message {index}: expected an object with a `role`", field="messages")
        parts = parts_of(message.get("content"), f"message {index}")
        before = len(media)
        media += [part for part in parts if isinstance(part, Source)]
        names = placeholders.named([source.kind for source in media])[before:]
        content = (
            _text(parts, names, placeholders, interleaved=interleaved)
            if wanted == "string"
            else _listed(parts)
        )
        plain.append({**message, "content": content})
    return plain, media


def _listed(parts: Sequence[str | Source]) -> list[dict[str, str]]:
    return [
        {"type": part.kind} if isinstance(part, Source) else {"type": "text", "text": part} for part in parts
    ]


def _text(
    parts: Sequence[str | Source], names: Sequence[str], placeholders: Placeholders, *, interleaved: bool
) -> str:
    """vLLM's text of a message: a placeholder that its texts have already is not put in front.

    `names`: the placeholders of its media, in their order.
    """
    if not placeholders.written:
        return "\n".join(part for part in parts if isinstance(part, str))
    waiting = iter(names)
    written: list[str] = []
    for part in parts:
        if isinstance(part, str):
            written.append(part)
        elif interleaved:
            written.append(next(waiting))
    text = "\n".join(written)
    missing: list[str] = []
    for placeholder in dict.fromkeys(names):
        over = text.count(placeholder) - names.count(placeholder) if placeholder else 0
        if over > 0:
            raise InputError(
                f"Found more '{placeholder}' placeholders in input prompt than actual multimodal data items.",
                field="messages",
            )
        missing += [placeholder] * -over
    return "\n".join([*missing, text] if text else missing)


def prompt(text: str, media: Sequence[Source]) -> str | dict[str, Any]:
    """A rendered conversation as a prompt: its text, or with media vLLM's form of a prompt."""
    if not media:
        return text
    data: dict[Kind, list[Any]] = {}
    uuids: dict[Kind, list[str | None]] = {}
    for source in media:
        value = source.data if source.fps is None else (source.data, {"fps": source.fps})
        data.setdefault(source.kind, []).append(value)
        uuids.setdefault(source.kind, []).append(source.uuid)
    whole: dict[str, Any] = {"prompt": text, "multi_modal_data": data}
    if any(source.uuid is not None for source in media):
        whole["multi_modal_uuids"] = uuids
    return whole
