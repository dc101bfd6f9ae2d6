"""The forms of a prompt: text, token ids, and vLLM's two dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import truncation

# Python takes these for sequences of numbers, but they are text that was not decoded, never token ids.
_BYTES = bytes | bytearray | memoryview


class Picture(Protocol):
    """A Pillow image, whose type is not imported where there is no Pillow."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def mode(self) -> str: ...
    def load(self) -> Any: ...


Prompt = str | Sequence[int] | NDArray[Any] | Mapping[str, Any] | Picture | PathLike[str]
"""Text, token ids, {"prompt": text} or {"prompt_token_ids": ids}. For models that read pictures also
a picture or its file, {"text": ..., "image": ..., "video": ...}, or {"prompt": ...,
"multi_modal_data": ...}."""
Prompts = Prompt | Sequence[Prompt]
"""One prompt, or several."""
ScoreText = str | Mapping[str, Any] | Picture | NDArray[Any] | PathLike[str]
"""Text, or {"content": [{"type": "text", "text": ...}, ...]}; of models that read pictures also a picture,
its file, and {"text": ..., "image": ...}."""
ScoreTexts = ScoreText | Sequence[ScoreText]
"""One side of a score: one text, or several."""


def prompts_from(value: Any) -> list[Any]:
    """The list of prompts in a caller's argument. One text, one list of token ids and one dict are one prompt
    each. Raises InputError."""
    if isinstance(value, str | Mapping):
        return [value]
    if isinstance(value, np.ndarray):
        return [value] if value.ndim == 1 and value.dtype.kind in "iu" else list(value)
    if isinstance(value, _BYTES) or not isinstance(value, Sequence):
        raise InputError(
            f"expected text, token ids or a list of them, found {type(value).__name__}", field="input"
        )
    prompts = list(value)
    return (
        [prompts] if prompts and all(isinstance(number, int | np.integer) for number in prompts) else prompts
    )


def checked(prompts: Sequence[Any]) -> list[Any]:
    """The same prompts. Raises InputError for an empty list and for keys of vLLM's prompt dicts that a text
    model cannot follow."""
    if not prompts:
        raise InputError("You must pass at least one prompt", field="input")
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, Mapping):
            if "data" in prompt:
                raise InputError(
                    f"input {index}: a prompt with 'data' needs encode(pooling_task='plugin')",
                    field="input",
                )
            if prompt.get("multi_modal_data"):
                raise InputError(
                    f"input {index}: this model reads text only, found multi_modal_data", field="input"
                )
    return list(prompts)


def token_ids(value: Any, index: int, vocab_size: int, *, field: str = "input") -> list[int]:
    """The ids of one prompt as ints. Raises InputError unless `value` is a flat sequence of ids in
    [0, vocab_size)."""
    if isinstance(value, _BYTES) or not isinstance(value, Sequence | np.ndarray):
        raise InputError(
            f"input {index}: expected text or token ids, found {type(value).__name__}", field=field
        )
    if len(value) == 0:
        raise InputError(f"input {index}: the prompt cannot be empty: it has no tokens", field=field)
    try:
        ids = np.asarray(value)
    except (ValueError, OverflowError):  # ragged, or beyond 64 bits
        ids = np.asarray([None])
    if ids.dtype.kind == "O" and all(isinstance(number, int) for number in value):
        raise InputError(f"input {index}: a token id is out of vocabulary ({vocab_size} ids)", field=field)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or any(isinstance(number, bool) for number in value):
        raise InputError(f"input {index}: token ids must be a flat list of whole numbers", field=field)
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < 0 or largest >= vocab_size:
        number = smallest if smallest < 0 else largest
        raise InputError(
            f"input {index}: token id {number} is out of vocabulary ({vocab_size} ids)", field=field
        )
    return ids.astype(np.int64).tolist()


def from_mapping(prompt: Mapping[str, Any], index: int) -> Any:
    """The text or the ids of a dict. Raises InputError where it holds neither."""
    for key in ("prompt_token_ids", "prompt"):
        if key in prompt:
            if key == "prompt":
                truncation.check_text(prompt[key], f"input {index}")
            elif isinstance(prompt[key], str):
                raise InputError(
                    f"input {index}: prompt_token_ids: expected token ids, found str; "
                    "text goes under 'prompt'",
                    field="input",
                )
            return prompt[key]
    raise InputError(
        f"input {index}: an object needs the key 'prompt' or 'prompt_token_ids', found "
        f"{sorted(map(str, prompt))}",
        field="input",
    )


def content_text(item: Mapping[str, Any], architecture: str) -> str:
    """The text of `{"content": [{"type": "text", "text": ...}, ...]}`: its parts joined by newlines,
    as in vLLM's conversations. Raises InputError for a part that is no text, and for an empty list."""
    content = item.get("content")
    if not isinstance(content, list | tuple):
        raise InputError(
            "expected text, or an object with a list `content`, found an object with "
            f"{sorted(map(str, item))}"
        )
    for part in content or [None]:
        if (
            not isinstance(part, Mapping)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            kind = part.get("type") if isinstance(part, Mapping) else None
            what = f"a part {str(kind)[:100]!r}" if content else "no part"
            raise InputError(
                f"MultiModalParam is not supported for {architecture}: found {what}, it reads text parts only"
            )
    return "\n".join(part["text"] for part in content)
