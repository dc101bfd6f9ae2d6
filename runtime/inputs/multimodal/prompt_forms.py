"""The forms of a prompt with pictures: a picture, {"text": ..., "image": ..., "video": ...}, vLLM's
`multi_modal_data`, and lists of content parts. All become one record, `Content`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from .. import prompts, truncation
from . import content_parts
from .contents import KINDS, Content, Kind, Source, is_picture, rate, source_of

OWN_KEYS = ("text", "image", "video", "fps", "mm_processor_kwargs", "multi_modal_uuids")
VLLM_KEYS = ("prompt", "prompt_token_ids", "multi_modal_data", "mm_processor_kwargs", "multi_modal_uuids")
LATER_KEYS = ("cache_salt",)
"""Of vLLM's prompts; without effect here."""


def prompts_from(value: Any) -> list[Any]:
    """The list of prompts in a caller's argument: a picture is one prompt. Raises InputError."""
    if is_picture(value) or isinstance(value, os.PathLike | Content):
        return [value]
    return prompts.prompts_from(value)


def content(prompt: Any, name: str, *, field: str = "input") -> Content:
    """The record of a prompt in any form. Raises InputError that calls it `name`.

    Args:
        field: the parameter that errors name.
    """
    if isinstance(prompt, Content):
        return prompt
    if isinstance(prompt, str):
        return Content(prompt)
    if is_picture(prompt) or isinstance(prompt, os.PathLike):
        return Content(media=(Source("image", prompt),))
    if not isinstance(prompt, Mapping):
        return Content(prompt)
    if "content" in prompt:
        return content_parts.content(prompt["content"], name, options=_options(prompt, name))
    if "prompt" in prompt or "prompt_token_ids" in prompt or "multi_modal_data" in prompt:
        return _vllm(prompt, name, field)
    if not any(key in prompt for key in ("text", "image", "video")):
        raise InputError(
            f"{name}: an object needs one of the keys 'text', 'image', 'video', 'content', 'prompt' or "
            f"'prompt_token_ids', found {sorted(map(str, prompt))}",
            field=field,
        )
    _refuse_unknown(prompt, (*OWN_KEYS, *LATER_KEYS), name, field)
    text = prompt.get("text")
    if text is None:
        text = ""
    truncation.check_text(text, f"{name}: text", field=field)
    media = _media({kind: prompt.get(kind) for kind in KINDS}, prompt.get("multi_modal_uuids"), name)
    fps = prompt.get("fps")
    if fps is not None:
        media = tuple(
            Source(source.kind, source.data, rate(fps, name), source.uuid)
            if source.kind == "video" and source.fps is None
            else source
            for source in media
        )
    return Content(text, media, options=_options(prompt, name))


def _vllm(prompt: Mapping[str, Any], name: str, field: str) -> Content:
    _refuse_unknown(prompt, (*VLLM_KEYS, *LATER_KEYS), name, field)
    data = prompt.get("multi_modal_data")
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        raise InputError(
            f"{name}: multi_modal_data: expected an object, found {type(data).__name__}",
            field="multi_modal_data",
        )
    if unknown := [str(key) for key in data if key not in KINDS]:
        raise InputError(
            f"{name}: multi_modal_data: this model reads 'image' and 'video', found {', '.join(unknown)}",
            field="multi_modal_data",
        )
    media = _media(data, prompt.get("multi_modal_uuids"), name)
    if "prompt_token_ids" in prompt:
        text = prompt["prompt_token_ids"]
        if isinstance(text, str):
            raise InputError(
                f"{name}: prompt_token_ids: expected token ids, found str; text goes under 'prompt'",
                field=field,
            )
    else:
        text = "" if prompt.get("prompt") is None and media else prompt.get("prompt")
        truncation.check_text(text, f"{name}: prompt", field=field)
    return Content(text, media, finished=True, options=_options(prompt, name))


def _options(prompt: Mapping[str, Any], name: str) -> Mapping[str, object]:
    options = prompt.get("mm_processor_kwargs")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InputError(
            f"{name}: mm_processor_kwargs: expected an object, found {type(options).__name__}",
            field="mm_processor_kwargs",
        )
    return options


def _refuse_unknown(prompt: Mapping[str, Any], known: Sequence[str], name: str, field: str) -> None:
    if "data" in prompt:
        raise InputError(f"{name}: a prompt with 'data' needs encode(pooling_task='plugin')", field=field)
    if unknown := sorted(str(key) for key in prompt if key not in known):
        raise InputError(
            f"{name}: unknown {', '.join(map(repr, unknown))}; known are {', '.join(known)}", field=field
        )


def _media(data: Mapping[Any, Any], uuids: Any, name: str) -> tuple[Source, ...]:
    """Sources of each kind's value, which is one medium or a list of them."""
    sources: list[Source] = []
    for kind in KINDS:
        listed = _listed(data.get(kind), kind)
        named = _uuids(uuids, kind, len(listed), name)
        listed = listed or [None] * len(named)
        sources += [
            source_of(kind, value, uuid, f"{name}: {kind} {index}")
            for index, (value, uuid) in enumerate(zip(listed, named, strict=True))
        ]
    return tuple(sources)


def _listed(value: Any, kind: Kind) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        alone = 3 if kind == "image" else 4
        return list(value) if value.ndim == alone + 1 else [value]
    if isinstance(value, list) or (isinstance(value, tuple) and kind == "image"):
        # A list of pictures is the frames of one video.
        frames = kind == "video" and len(value) > 0 and all(map(is_picture, value))
        return [value] if frames else list(value)
    return [value]


def _uuids(uuids: Any, kind: Kind, count: int, name: str) -> list[str | None]:
    if uuids is not None and not isinstance(uuids, Mapping):
        raise InputError(
            f"{name}: multi_modal_uuids: expected an object, found {type(uuids).__name__}",
            field="multi_modal_uuids",
        )
    named = (uuids or {}).get(kind)
    if named is None:
        return [None] * count
    listed = [named] if isinstance(named, str) else list(named)
    if count and len(listed) != count:
        raise InputError(
            f"{name}: multi_modal_uuids has {len(listed)} names of {kind}s, and there are {count}",
            field="multi_modal_uuids",
        )
    return [None if uuid is None else str(uuid) for uuid in listed]
