"""What every public method takes by keyword, one TypedDict each, so that type checkers and editors
know the options of a call."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .answers.lora_request import LoRARequests
from .answers.params import Params, PoolingParams
from .artifact.manifest import RoleName
from .errors import UnknownOption
from .inputs.items import Style
from .progress import Bar


class CallOptions(TypedDict, total=False):
    """Of every call that computes."""

    truncate_prompt_tokens: int | None
    """None refuses longer texts, -1 cuts to the model's limit, k cuts to k tokens: of each text, or of a
    cross-encoder's joint pair."""
    truncation_side: Literal["left", "right"] | None
    """None cuts the end but keeps special tokens; else the side whose tokens are lost, special ones too."""
    tokenization_kwargs: Mapping[str, Any] | None
    """vLLM's spelling of the same (`truncation`, `max_length`, ...); it wins over the options beside it."""
    lora_request: LoRARequests
    """Which adapter computes; only `LLM(..., enable_lora=True)` follows one, a Model raises InputError."""
    deadline_s: float | None
    """Seconds until DeadlineExceeded is raised; None: no end."""
    priority: int
    """Lower is sooner; other than 0 only for a model loaded with scheduling_policy="priority"."""


class PromptOptions(CallOptions, total=False):
    """Of every call whose texts are computed each by itself."""

    role: RoleName | None
    """For models that prepare both differently: a stored prompt in front, ColBERT's markers and expansion."""
    prompt_name: str | None
    """A stored prompt to put in front."""
    add_special_tokens: bool
    """False for text that holds them already, as a chat template writes them. Default: True."""


class EmbedOptions(PromptOptions, total=False):
    """Of `embed` and `token_embed`."""

    pooling_params: Params
    """One for all prompts, or one for each: width of the vectors, normalised or not."""
    use_tqdm: Bar
    """A progress bar: yes, no, or something called as tqdm is. Default: False, of LLM True."""


class ClassifyOptions(PromptOptions, total=False):
    """Of `classify`, `token_classify` and `reward`."""

    pooling_params: Params
    """One for all prompts, or one for each: activation, a step tag, the columns to return."""
    use_tqdm: Bar
    """A progress bar: yes, no, or something called as tqdm is. Default: False, of LLM True."""


class StartOptions(PromptOptions, total=False):
    """Of `start`."""

    pooling_task: str | None
    """The task by name; the model's `tasks` lists them."""


class EncodeOptions(StartOptions, total=False):
    """Of `encode`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or something called as tqdm is. Default: False, of LLM True."""


class StartScoreOptions(CallOptions, total=False):
    """Of `start_score`."""

    pooling_params: PoolingParams | Sequence[PoolingParams] | None
    """One, or a list of one. `extra_kwargs` may hold what vLLM takes there."""
    chat_template: str | None
    """Jinja text of a score template; for LLM also a file, or one that comes with poolrt."""
    template_kwargs: Mapping[str, Any] | None
    """Variables of the score template."""
    instruction: str | None
    """The variable `instruction` of the score template."""
    max_tokens_per_query: int
    """Cuts the text of the first side before anything else; 0: not."""
    max_tokens_per_doc: int
    """The same of the second side."""
    cut_document: bool
    """Truncation shortens the document only."""
    preparation: Style | None
    """`model` prepares both sides as the model's own library does, `vllm` as vLLM does; None:
    as the model was loaded."""


class ScoreOptions(StartScoreOptions, total=False):
    """Of `score`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or something called as tqdm is. Default: False, of LLM True."""


class StartRerankOptions(StartScoreOptions, total=False):
    """Of `start_rerank`."""

    top_n: int
    """How many of the best documents are returned; 0: all."""


class RerankOptions(StartRerankOptions, total=False):
    """Of `rerank`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or something called as tqdm is. Default: False."""


class TokenizeOptions(TypedDict, total=False):
    """Of `tokenize`."""

    add_special_tokens: bool
    """Whether the tokenizer puts its own around the text. Default: True."""


class ChatOptions(TypedDict, total=False):
    """Of `chat`."""

    chat_template: str | None
    """Jinja text in place of the model's own template."""
    add_generation_prompt: bool
    """Ends with the head of an answer."""
    continue_final_message: bool
    """Leaves the last message open."""
    template_kwargs: Mapping[str, Any] | None
    """Variables of the template."""
    content_format: Literal["auto", "string", "openai"]
    """How the template wants the content of a message: as text, or as parts. Default: what
    the template itself shows."""
    tools: Sequence[Mapping[str, Any]] | None
    """Passed to the template."""


_OF_PARAMS = {"normalize": "use_activation"} | {
    name: name
    for name in ("use_activation", "dimensions", "step_tag_id", "returned_token_ids", "extra_kwargs")
}
"""What callers look for among the options -> the field of PoolingParams that does it."""


def check(method: str, options: Mapping[str, object], known: type[TypedDict], *positional: str) -> None:  # pyright: ignore[reportInvalidTypeForm]
    """Raises UnknownOption for a keyword that is no key of `known`.

    Args:
        method: as the caller wrote it.
        known: the TypedDict of the method's options.
        positional: parameters of the method that may be written as keywords too.
    """
    keys: frozenset[str] = known.__optional_keys__
    if unknown := options.keys() - keys:
        name = min(unknown)
        names = {key: repr(key) for key in (*keys, *positional)}
        if "pooling_params" in names:
            names |= {key: f"pooling_params=PoolingParams({param}=...)" for key, param in _OF_PARAMS.items()}
        raise UnknownOption(f"{method}() takes no option {name!r}{suggestion(name, names)}", field=name)


def suggestion(name: str, known: Mapping[str, str]) -> str:
    """The end of an error's text, such as `; did you mean 'role'?`; empty where nothing is close.

    Args:
        known: right name -> how it is written.
    """
    closest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {known[closest[0]]}?" if closest else ""
