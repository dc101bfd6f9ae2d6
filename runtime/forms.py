"""The forms in which callers may write what they ask for: prompts, tokenisation options, progress bars."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .errors import InputError
from .manifest import Manifest, Task
from .outputs import Outputs, PoolingOutput, RequestOutput
from .pending import Progress
from .text import Limits

Bar = bool | Callable[..., Any]
"""Progress: no, yes, or something called as tqdm is."""
Other = TypeVar("Other")

# vLLM's tokenization_kwargs that change nothing here: items are never padded by the tokenizer.
_IGNORED = ("padding", "return_tensors")


@dataclass(frozen=True, slots=True)
class Tokenization:
    limits: Limits
    add_special_tokens: bool


def prompts(given: Sequence[Any]) -> list[Any]:
    """Raises InputError for an empty list and for the parts of vLLM's prompt dicts that a text model cannot follow."""
    if not given:
        raise InputError("You must pass at least one prompt", field="input")
    for index, prompt in enumerate(given):
        if isinstance(prompt, Mapping):
            if "data" in prompt:
                raise InputError(f"input {index}: a prompt with 'data' needs encode(pooling_task='plugin')", field="input")
            if prompt.get("multi_modal_data"):
                raise InputError(f"input {index}: this model reads text only, found multi_modal_data", field="input")
    return list(given)


def tokenization(
    given: Mapping[str, Any] | None,
    *,
    truncate_prompt_tokens: int | None = None,
    truncation_side: Any = None,
    add_special_tokens: bool = True,
    cut_document: bool = False,
) -> Tokenization:
    """Arguments and vLLM's `tokenization_kwargs` as one; what stands in the latter wins."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"tokenization_kwargs: expected an object, found {type(given).__name__}", field="tokenization_kwargs")
    options = dict(given or {})
    for name in _IGNORED:
        options.pop(name, None)
    if options.pop("do_lower_case", None) is not None:
        warnings.warn("tokenization_kwargs: do_lower_case is fixed when a model is exported; ignored", stacklevel=4)
    truncation, longest = options.pop("truncation", None), options.pop("max_length", None)
    if longest is not None and truncation is not False:
        truncate_prompt_tokens = longest
    elif truncation:
        truncate_prompt_tokens = -1
    truncate_prompt_tokens = options.pop("truncate_prompt_tokens", truncate_prompt_tokens)
    truncation_side = options.pop("truncation_side", truncation_side)
    add_special_tokens = options.pop("add_special_tokens", add_special_tokens)
    if options:
        warnings.warn(f"tokenization_kwargs: {', '.join(map(repr, sorted(options)))} ignored: unknown to poolrt", stacklevel=4)
    limits = Limits(truncate_prompt_tokens=truncate_prompt_tokens, truncation_side=truncation_side, cut_document=cut_document)
    return Tokenization(limits, bool(add_special_tokens))


def shortened(limits: Limits, manifest: Manifest, task: Task) -> Limits:
    """max_embed_len lowers the limit of embeddings."""
    most = manifest.max_embed_tokens
    if task == "embed" and most is not None and most < manifest.text.max_tokens:
        return replace(limits, max_tokens=most)
    return limits


def refuse_lora(lora_request: object) -> None:
    if lora_request is not None and any(one is not None for one in (lora_request if isinstance(lora_request, list) else [lora_request])):
        raise InputError(
            "lora_request: an adapter is merged at export (poolrt export CHECKPOINT --lora ADAPTER); load that artifact, or use "
            "LLM(..., enable_lora=True), which takes lora_request",
            field="lora_request",
        )


def mapped(made: Outputs[PoolingOutput], kind: type[RequestOutput[Any]], step: Callable[[PoolingOutput], Any]) -> Outputs[Any]:
    requests = (
        kind(step(request.outputs), request.prompt_token_ids, request.prompt_tokens, request.truncated, request.request_id)
        for request in made.requests
    )
    return Outputs(tuple(requests), made.padding)


@contextmanager
def bar(wanted: Bar, count: int) -> Iterator[Progress | None]:
    """A progress bar for `count` items: the caller's own, tqdm where installed, else a line on stderr."""
    if not wanted:
        yield None
        return
    shown: Any = wanted if callable(wanted) else _tqdm()
    with shown(total=count, desc="Processed prompts") as opened:
        yield opened.update


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _Line
    return tqdm


class _Line:
    """As much of tqdm as is used."""

    def __init__(self, *, total: int, desc: str) -> None:
        self.total, self.desc, self.done = total, desc, 0

    def update(self, count: int) -> None:
        self.done += count
        print(f"\r{self.desc}: {self.done}/{self.total}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        print(file=sys.stderr)
