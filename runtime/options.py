"""The keywords of every public method, one TypedDict each, so that type checkers and editors know them."""

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
    """None refuses longer texts, -1 cuts to the model's limit, k cuts to k tokens. The limit holds for each
    text, or for the pair of a cross-encoder."""
    truncation_side: Literal["left", "right"] | None
    """None cuts the end but keeps special tokens. A side loses its tokens, special ones included."""
    tokenization_kwargs: Mapping[str, Any] | None
    """vLLM's spelling of the same (`truncation`, `max_length`, ...), which wins over the options above."""
    lora_request: LoRARequests
    """The adapter that computes. Only `LLM(..., enable_lora=True)` takes one; a Model raises InputError."""
    deadline_s: float | None
    """Seconds from now until DeadlineExceeded is raised; None: no end."""
    priority: int
    """Lower is sooner; other than 0 only for a model loaded with scheduling_policy="priority"."""
    cache_salt: str | None
    """What is kept of this call (`response_cache_mb`) is found only by calls with the same salt."""


class PromptOptions(CallOptions, total=False):
    """Of every call that computes its texts one by one."""

    role: RoleName | None
    """`query` or `document`, for models that prepare them differently: by a stored prompt, or by ColBERT's
    markers and expansion."""
    prompt_name: str | None
    """Name of a stored prompt, which is put in front of each text."""
    add_special_tokens: bool
    """False for a text that has them already, as a chat template writes them; the template of a role does
    not apply to it either. Default: True."""
    instruction: str | None
    """The `instruction` of a role's template; None: the model's own."""


class EmbedOptions(PromptOptions, total=False):
    """Of `embed` and `token_embed`."""

    pooling_params: Params
    """One for all prompts, or one for each: width of the vectors, normalised or not."""
    use_tqdm: Bar
    """A progress bar: yes, no, or a callable with tqdm's arguments. Default: False; of LLM True."""


class ClassifyOptions(PromptOptions, total=False):
    """Of `classify`, `token_classify` and `reward`."""

    pooling_params: Params
    """One for all prompts, or one for each: activation, a step tag, the columns to return."""
    use_tqdm: Bar
    """A progress bar: yes, no, or a callable with tqdm's arguments. Default: False; of LLM True."""


class StartOptions(PromptOptions, total=False):
    """Of `start`."""

    pooling_task: str | None
    """The task by name; the model's `tasks` lists them."""


class EncodeOptions(StartOptions, total=False):
    """Of `encode`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or a callable with tqdm's arguments. Default: False; of LLM True."""


class StartScoreOptions(CallOptions, total=False):
    """Of `start_score`."""

    pooling_params: PoolingParams | Sequence[PoolingParams] | None
    """One, or a list of one. vLLM's keywords in `extra_kwargs` are followed."""
    chat_template: str | None
    """Jinja text of a score template. LLM takes a file, or one that comes with poolrt, too."""
    template_kwargs: Mapping[str, Any] | None
    """Variables of the score template."""
    instruction: str | None
    """The variable `instruction` of the score template, or of the templates of roles."""
    max_tokens_per_query: int
    """Tokens that each text of the first side is cut to before anything else; 0: no cut."""
    max_tokens_per_doc: int
    """The same for the second side."""
    cut_document: bool
    """Whether truncation shortens the document only. Default: False."""
    preparation: Style | None
    """`model` prepares both sides as the model's own library does, `vllm` as vLLM does. None: as
    the model was loaded."""


class ScoreOptions(StartScoreOptions, total=False):
    """Of `score`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or a callable with tqdm's arguments. Default: False; of LLM True."""


class StartRerankOptions(StartScoreOptions, total=False):
    """Of `start_rerank`."""

    top_n: int
    """How many of the best documents are returned; 0: all."""


class RerankOptions(StartRerankOptions, total=False):
    """Of `rerank`."""

    use_tqdm: Bar
    """A progress bar: yes, no, or a callable with tqdm's arguments. Default: False."""


class TokenizeOptions(TypedDict, total=False):
    """Of `tokenize`."""

    add_special_tokens: bool
    """Whether the tokenizer puts its special tokens around the text. Default: True."""


class ChatOptions(TypedDict, total=False):
    """Of `chat`."""

    chat_template: str | None
    """Jinja text in place of the model's own template."""
    add_generation_prompt: bool
    """Whether the text ends with the beginning of a reply. Default: False."""
    continue_final_message: bool
    """Whether the last message is left open. Default: False."""
    template_kwargs: Mapping[str, Any] | None
    """Variables of the template."""
    content_format: Literal["auto", "string", "openai"]
    """Whether the template takes the content of a message as text or as parts. Default:
    read from the template."""
    tools: Sequence[Mapping[str, Any]] | None
    """Passed to the template."""
    interleave_mm_strings: bool
    """For templates that take text: whether pictures stand between the texts of a message as they do in its
    list of parts, or in front of them. Default: False."""


_OF_PARAMS = {"normalize": "use_activation"} | {
    name: name
    for name in ("use_activation", "dimensions", "step_tag_id", "returned_token_ids", "extra_kwargs")
}
"""Word that callers try as an option -> the field of PoolingParams that does it."""


def check(method: str, options: Mapping[str, object], known: type[TypedDict], *positional: str) -> None:  # pyright: ignore[reportInvalidTypeForm]
    """Raises UnknownOption for a keyword that is no key of `known`.

    Args:
        method: its name, as the caller wrote it.
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
    """Returns the end of an error's text, such as `; did you mean 'role'?`; empty where nothing is close.

    Args:
        known: right name -> how the error spells it.
    """
    closest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {known[closest[0]]}?" if closest else ""
