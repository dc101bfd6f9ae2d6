"""How a call has its texts tokenised: poolrt's own arguments and vLLM's `tokenization_kwargs` as one
record."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..artifact.manifest import Manifest, Task
from ..errors import InputError
from .items import TokenLimits

# Keys of vLLM's tokenization_kwargs that change nothing, since no tokenizer of ours pads.
_IGNORED = ("padding", "return_tensors")


@dataclass(frozen=True, slots=True)
class Tokenization:
    """How the texts of one call are tokenised."""

    limits: TokenLimits
    add_special_tokens: bool


def tokenization(
    kwargs: Mapping[str, Any] | None,
    *,
    truncate_prompt_tokens: int | None = None,
    truncation_side: Any = None,
    add_special_tokens: bool = True,
    cut_document: bool = False,
) -> Tokenization:
    """The arguments and vLLM's `tokenization_kwargs` as one; the latter win. Raises InputError where those
    are no mapping, and warns of unknown keys."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(
            f"tokenization_kwargs: expected an object, found {type(kwargs).__name__}",
            field="tokenization_kwargs",
        )
    options = dict(kwargs or {})
    for name in _IGNORED:
        options.pop(name, None)
    if options.pop("do_lower_case", None) is not None:
        warnings.warn(
            "tokenization_kwargs: do_lower_case is fixed when a model is exported; ignored", stacklevel=4
        )
    truncation, longest = options.pop("truncation", None), options.pop("max_length", None)
    if longest is not None and truncation is not False:
        truncate_prompt_tokens = longest
    elif truncation:
        truncate_prompt_tokens = -1
    truncate_prompt_tokens = options.pop("truncate_prompt_tokens", truncate_prompt_tokens)
    truncation_side = options.pop("truncation_side", truncation_side)
    add_special_tokens = options.pop("add_special_tokens", add_special_tokens)
    if options:
        warnings.warn(
            f"tokenization_kwargs: {', '.join(map(repr, sorted(options)))} ignored: unknown to poolrt",
            stacklevel=4,
        )
    limits = TokenLimits(
        truncate_prompt_tokens=truncate_prompt_tokens,
        truncation_side=truncation_side,
        cut_document=cut_document,
    )
    return Tokenization(limits, bool(add_special_tokens))


def shortened(limits: TokenLimits, manifest: Manifest, task: Task) -> TokenLimits:
    """The limits of a task: embeddings are limited by max_embed_len too."""
    most = manifest.max_embed_tokens
    if task == "embed" and most is not None and most < manifest.text.max_tokens:
        return replace(limits, max_tokens=most)
    return limits
