"""vLLM's PoolingParams, and what of it a head allows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from ..artifact.manifest import Head, Manifest, Task
from ..errors import InputError, UnsupportedTask

NO_PLUGIN = "No IOProcessor plugin installed."
"""The text that vLLM's clients look for."""
TASKS: tuple[Task, ...] = ("embed", "token_embed", "classify", "token_classify")


@dataclass(slots=True)
class PoolingParams:
    """What a request may change about a head. None leaves what the model says."""

    use_activation: bool | None = None
    """Whether embeddings are L2-normalised, and classes put through the head's sigmoid, softmax, ..."""
    dimensions: int | None = None
    """Matryoshka width."""
    step_tag_id: int | None = None
    """Token at which a step ends, for heads that pool steps."""
    returned_token_ids: Sequence[int] | None = None
    """Columns to return, for heads that pool steps."""
    task: str | None = None
    """A second name of the task, which must agree with the call; `score` means `classify`."""
    extra_kwargs: Mapping[str, Any] | None = field(default=None)
    """`max_tokens_per_query`, `max_tokens_per_doc`, `chat_template_kwargs` of a score."""

    def __post_init__(self) -> None:
        if self.task == "score":
            warnings.warn(
                "PoolingParams(task='score') means task='classify'", DeprecationWarning, stacklevel=3
            )
            self.task = "classify"


Params = PoolingParams | Sequence[PoolingParams | None] | None
"""One for all prompts, or one (or none) for each."""


def per_prompt(pooling_params: Params, count: int) -> list[PoolingParams]:
    """Returns one PoolingParams per prompt. Raises InputError when a list has another length."""
    if pooling_params is None:
        return [PoolingParams()] * count
    if isinstance(pooling_params, PoolingParams):
        return [pooling_params] * count
    if isinstance(pooling_params, str | Mapping) or not isinstance(pooling_params, Sequence):
        raise InputError(
            "pooling_params: expected PoolingParams or a list of them, found "
            f"{type(pooling_params).__name__}",
            field="pooling_params",
        )
    if len(pooling_params) != count:
        raise InputError(
            f"The lengths of prompts ({count}) and pooling_params ({len(pooling_params)}) must be the same.",
            field="pooling_params",
        )
    return [PoolingParams() if params is None else params for params in pooling_params]


def without_dimensions(pooling_params: Params, count: int) -> list[PoolingParams]:
    """Returns one PoolingParams per prompt, for a task that has no width to choose."""
    return [
        params if params.dimensions is None else replace(params, dimensions=None)
        for params in per_prompt(pooling_params, count)
    ]


def check_task(manifest: Manifest, task: str) -> Task:
    """Returns the task, `classify` for `score`. Raises UnsupportedTask, with the text that vLLM's clients
    look for, for one that the model lacks."""
    if task == "score":
        task = "classify"
    if task not in manifest.tasks:
        if task == "plugin":
            raise UnsupportedTask(NO_PLUGIN)
        raise UnsupportedTask(f"Unsupported task: '{task}' Supported tasks: {tuple(manifest.tasks)}")
    return TASKS[TASKS.index(task)]


def check(manifest: Manifest, task: Task, params: PoolingParams) -> None:
    """Raises InputError for a parameter that this head cannot follow."""
    head = manifest.heads[task]
    if params.task is not None and params.task != task:
        raise InputError(
            f"You cannot overwrite PoolingParams.task={params.task!r} with pooling_task={task!r}",
            field="task",
        )
    if params.use_activation is not None and not isinstance(params.use_activation, bool):
        raise InputError(
            f"use_activation: expected true or false, found {params.use_activation!r}",
            field="use_activation",
        )
    if params.dimensions is not None:
        check_dimensions(manifest.name, task, head, params.dimensions)
    if head.pool != "step":
        for name in ("step_tag_id", "returned_token_ids"):
            if getattr(params, name) is not None:
                raise InputError(
                    f"{name} is only for models with STEP pooling; this head pools {head.pool.upper()}",
                    field=name,
                )
    for column in params.returned_token_ids or ():
        if not 0 <= column < head.dim:
            raise InputError(
                f"returned_token_ids: {column} is not one of this head's {head.dim} columns",
                field="returned_token_ids",
            )


def check_dimensions(name: str, task: Task, head: Head, dimensions: int) -> None:
    """Raises InputError for a width that the head cannot be cut to.

    Args:
        name: of the model, as errors call it.
    """
    if isinstance(dimensions, bool) or not isinstance(dimensions, int):
        raise InputError(f"dimensions: expected a whole number, found {dimensions!r}", field="dimensions")
    if task not in ("embed", "token_embed"):
        raise InputError(f"dimensions is only for embeddings, not for task {task!r}", field="dimensions")
    if dimensions == head.dim:  # the whole vector: OpenAI's clients may always send it
        return
    if not head.matryoshka and not head.any_dimension:
        raise InputError(
            f'Model "{name}" does not support matryoshka representation, changing output dimensions '
            "will lead to poor results.",
            field="dimensions",
        )
    if not 1 <= dimensions <= head.dim:
        raise InputError(f"dimensions must be from 1 to {head.dim}, found {dimensions}", field="dimensions")
    if head.matryoshka and dimensions not in head.matryoshka:
        raise InputError(
            f'Model "{name}" only supports {list(head.matryoshka)} matryoshka dimensions, other output '
            "dimensions lead to poor results; "
            f"found {dimensions}",
            field="dimensions",
        )


def single(pooling_params: Params) -> PoolingParams:
    """Returns the PoolingParams of a score. A list of one is as good, as in vLLM; raises
    InputError for a longer one."""
    if isinstance(pooling_params, Sequence) and len(pooling_params) == 1:
        pooling_params = pooling_params[0]
    return per_prompt(pooling_params, 1)[0]


class ScoreArguments(TypedDict):
    """Fields of a ScoreRequest that have two sources."""

    variables: dict[str, Any] | None
    max_tokens_per_query: int
    max_tokens_per_doc: int


def score_options(
    params: PoolingParams,
    template_kwargs: Mapping[str, Any] | None,
    instruction: str | None,
    max_tokens_per_query: int,
    max_tokens_per_doc: int,
) -> ScoreArguments:
    """Completes the arguments of a score from `PoolingParams.extra_kwargs`, where vLLM's offline class takes
    them. An argument wins over its double there. Raises InputError for an unknown key."""
    extra = dict(params.extra_kwargs or {})
    known = ("chat_template_kwargs", "max_tokens_per_query", "max_tokens_per_doc")
    if unknown := sorted(set(extra) - set(known)):
        raise InputError(
            f"extra_kwargs: unknown {', '.join(map(repr, unknown))}; known are {', '.join(known)}",
            field="pooling_params",
        )
    variables = {**(extra.get("chat_template_kwargs") or {}), **(template_kwargs or {})}
    if instruction is not None:
        variables.setdefault("instruction", instruction)
    return ScoreArguments(
        variables=variables or None,
        max_tokens_per_query=max_tokens_per_query or extra.get("max_tokens_per_query") or 0,
        max_tokens_per_doc=max_tokens_per_doc or extra.get("max_tokens_per_doc") or 0,
    )


def refuse_lora(lora_request: object) -> None:
    """Raises InputError for a request that names an adapter: one artifact holds no other weights."""
    if lora_request is not None and any(
        adapter is not None
        for adapter in (lora_request if isinstance(lora_request, list) else [lora_request])
    ):
        raise InputError(
            "lora_request: an adapter is merged at export (poolrt export CHECKPOINT --lora ADAPTER); load "
            "that artifact, or use LLM(..., enable_lora=True), which takes lora_request",
            field="lora_request",
        )
