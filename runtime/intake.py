"""From the arguments of a call to items in the worker's queue.

Everything is checked and tokenised in the caller's thread, so one caller's mistake
never fails another's batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .answers import matching, pair_scores, params, postprocess, score_request
from .answers.params import Params, PoolingParams
from .answers.score_request import ScoreRequest, Side
from .artifact.manifest import Head, Manifest, Task
from .batching.line import Policy
from .batching.pending import Pending
from .batching.queue import Answer
from .batching.stages import Stages
from .errors import InputError, UnsupportedTask
from .inputs import chunks
from .inputs.items import Item, Steps, Style, filled
from .inputs.preparation import Preparation
from .inputs.prompts import Prompts, ScoreText, ScoreTexts
from .inputs.tokenization import shortened, tokenization
from .options import CallOptions, PromptOptions, StartScoreOptions
from .outputs import Match, Outputs, PoolingOutput, PoolingRequestOutput, ScoringOutput

Result = TypeVar("Result")


class Intake:
    """Submits the calls of one model. Safe to call from many threads."""

    def __init__(self, manifest: Manifest, preparation: Preparation, stages: Stages, policy: Policy) -> None:
        self.manifest = manifest
        self.stages = stages
        self.policy: Policy = policy
        self._preparation = preparation
        self._preparations: dict[str, Preparation] = {preparation.style: preparation}
        self._lock = threading.Lock()
        self._calls, self._tokenize_s = 0, 0.0

    def pool(
        self, prompts: Prompts, pooling_params: Params, pooling_task: str | None, options: PromptOptions
    ) -> Pending[Outputs[PoolingOutput]]:
        """Submits prompts for one task. Raises InputError, UnsupportedTask or Overload."""
        parts = self._parts(pooling_task)
        params.refuse_lora(options.get("lora_request"))
        deadline = self._deadline(options)
        listed = self._preparation.prompts_from(prompts)
        part_params = self._checked_params(parts, pooling_params, len(listed))
        tokenizing = tokenization(
            options.get("tokenization_kwargs"),
            truncate_prompt_tokens=options.get("truncate_prompt_tokens"),
            truncation_side=options.get("truncation_side"),
            add_special_tokens=options.get("add_special_tokens", True),
        )
        chunked = self.manifest.chunked and parts == ("embed",)
        shorter = shortened(tokenizing.limits, self.manifest, parts[-1])
        limits = chunks.limits(self.manifest, tokenizing.limits) if chunked else shorter
        items = [Item(ids=[])] * len(listed)
        steps: Steps = filled(
            items,
            self._preparation.single_steps(
                listed,
                limits=limits,
                role=options.get("role"),
                prompt_name=options.get("prompt_name"),
                add_special_tokens=tokenizing.add_special_tokens,
                instruction=options.get("instruction"),
            ),
        )
        pieces: list[list[Item]] = []
        batch = items
        if chunked:
            for _ in self._timed(steps):
                pass
            pieces = chunks.cut(items, self.manifest.text.max_tokens)
            batch = [piece for group in pieces for piece in group]
            steps = [dict(enumerate(batch))]
            part_params = [[own for own, group in zip(part_params[0], pieces, strict=True) for _ in group]]
        heads = [self.manifest.heads[part] for part in parts]
        columns = [_Column(*column) for column in zip(parts, heads, part_params, strict=True)]

        def finish(answer: Answer) -> Outputs[PoolingOutput]:
            arrays = _joined(columns, answer, batch)
            if chunked:
                arrays = chunks.joined(arrays, pieces)
            requests = tuple(
                PoolingRequestOutput(
                    PoolingOutput(array),
                    item.ids,
                    item.prompt_tokens,
                    item.truncated,
                    str(index),
                    item.cached,
                )
                for index, (array, item) in enumerate(zip(arrays, items, strict=True))
            )
            return Outputs(requests, answer.slots / max(answer.tokens, 1) - 1)

        outputs = [head.output for head in heads]
        return self._submitted(len(batch), self._timed(steps), outputs, finish, deadline, options)

    def score(
        self, data_1: ScoreTexts, data_2: ScoreTexts, options: StartScoreOptions
    ) -> Pending[Outputs[ScoringOutput]]:
        """Submits 1:1, 1:N or N:N pairs. Raises InputError, UnsupportedTask or Overload."""
        deadline = self._deadline(options)
        preparation, first, second, request = self._sides(data_1, data_2, options)
        begun = time.perf_counter()
        prepared = pair_scores.prepare(self.manifest, preparation, first, second, request)
        self._spent(time.perf_counter() - begun)
        outputs = [self.manifest.heads[prepared.task].output]
        steps = self._timed(prepared.steps)
        return self._submitted(prepared.count, steps, outputs, prepared.finish, deadline, options)

    def match(self, query: ScoreText, document: ScoreText, options: StartScoreOptions) -> Pending[Match]:
        """Submits one pair that is compared token by token. Raises as `score` does."""
        deadline = self._deadline(options)
        preparation, first, second, request = self._sides([query], [document], options)
        prepared = matching.prepare(self.manifest, preparation, first[0], second[0], request)
        output = self.manifest.heads["token_embed"].output
        return self._submitted(2, self._timed(prepared.steps), [output], prepared.finish, deadline, options)

    def _sides(
        self, data_1: ScoreTexts, data_2: ScoreTexts, options: StartScoreOptions
    ) -> tuple[Preparation, list[Side], list[Side], ScoreRequest]:
        """Both sides of a score, and how they are to be prepared. Raises InputError and UnsupportedTask."""
        task = score_request.task_of(self.manifest)
        params.refuse_lora(options.get("lora_request"))
        preparation = self.preparation(options.get("preparation"))
        first, second = score_request.sides(preparation, data_1, data_2)
        pair_params = params.single(options.get("pooling_params"))
        arguments = params.score_options(
            pair_params,
            options.get("template_kwargs"),
            options.get("instruction"),
            options.get("max_tokens_per_query", 0),
            options.get("max_tokens_per_doc", 0),
        )
        if task == "classify":
            params.check(self.manifest, task, pair_params)
        limits = tokenization(
            options.get("tokenization_kwargs"),
            truncate_prompt_tokens=options.get("truncate_prompt_tokens"),
            truncation_side=options.get("truncation_side"),
            cut_document=options.get("cut_document", False),
        ).limits
        request = ScoreRequest(
            limits=limits, params=pair_params, template=options.get("chat_template"), **arguments
        )
        return preparation, first, second, request

    def preparation(self, style: Style | None) -> Preparation:
        """Returns the preparation of a style, made on its first use; None: of the style that the model was
        loaded with. Raises InputError for another word."""
        if style is None or style == self._preparation.style:
            return self._preparation
        if style not in ("model", "vllm"):
            raise InputError(f"preparation {style!r} is not 'model' or 'vllm'", field="preparation")
        with self._lock:
            if style not in self._preparations:
                self._preparations[style] = self._preparation.in_style(style)
            return self._preparations[style]

    def counters(self) -> tuple[int, float]:
        """Returns the number of calls, and the seconds that preparing their texts took."""
        with self._lock:
            return self._calls, self._tokenize_s

    def _timed(self, steps: Steps) -> Iterator[Mapping[int, Item]]:
        """Yields the steps, and counts the time that preparing them takes."""
        remaining = iter(steps)
        while True:
            begun = time.perf_counter()
            step = next(remaining, None)
            self._spent(time.perf_counter() - begun)
            if step is None:
                return
            yield step

    def _spent(self, seconds: float) -> None:
        with self._lock:
            self._tokenize_s += seconds

    def _parts(self, pooling_task: str | None) -> tuple[Task, ...]:
        """The tasks whose outputs make up the result: two for vLLM's combined task, else one."""
        if pooling_task is None:
            raise UnsupportedTask(
                "pooling_task required for encode; this model's are "
                f"{', '.join(map(repr, self.manifest.tasks))}"
            )
        if pooling_task == postprocess.COMBINED and postprocess.combines(self.manifest):
            return "embed", "token_classify"
        return (params.check_task(self.manifest, pooling_task),)

    def _checked_params(
        self, parts: Sequence[Task], pooling_params: Params, count: int
    ) -> list[list[PoolingParams]]:
        """One PoolingParams per prompt for every part."""
        # Only the embedding of a combined task has dimensions.
        part_params = [
            params.per_prompt(pooling_params, count),
            *(params.without_dimensions(pooling_params, count) for _ in parts[1:]),
        ]
        for part, prompt_params in zip(parts, part_params, strict=True):
            for distinct in {id(own): own for own in prompt_params}.values():
                params.check(self.manifest, part, distinct)
        return part_params

    def _deadline(self, options: CallOptions) -> float | None:
        """The time on time.monotonic()'s clock; None: no end. Checks the priority too, because
        the worker takes both."""
        priority, deadline_s = options.get("priority", 0), options.get("deadline_s")
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise InputError(
                f"priority: expected a whole number, found {type(priority).__name__}", field="priority"
            )
        if priority and self.policy != "priority":
            raise InputError(
                f"priority {priority}: requests are served in order here (scheduling policy "
                f"{self.policy!r}); leave it out, or load the "
                "model with scheduling_policy='priority' (poolrt serve --scheduling-policy priority)",
                field="priority",
            )
        if deadline_s is not None and (
            isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float)
        ):
            raise InputError(
                f"deadline_s: expected seconds, found {type(deadline_s).__name__}", field="deadline_s"
            )
        return None if deadline_s is None else time.monotonic() + deadline_s

    def _submitted(
        self,
        count: int,
        steps: Steps,
        outputs: Sequence[str],
        finish: Callable[[Answer], Result],
        deadline: float | None,
        options: CallOptions,
    ) -> Pending[Result]:
        ticket = self.stages.submit(
            count,
            steps,
            *outputs,
            deadline_s=options.get("deadline_s"),
            priority=options.get("priority", 0),
            salt=options.get("cache_salt") or "",
        )
        with self._lock:
            self._calls += 1
        return Pending(ticket, finish, count=count, deadline=deadline)


@dataclass(frozen=True, slots=True)
class _Column:
    """The part of a result that one task computes."""

    task: Task
    head: Head
    params: list[PoolingParams]
    """One per item."""


def _joined(columns: Sequence[_Column], answer: Answer, items: list[Item]) -> list[Any]:
    """One array per item: the arrays of its columns, concatenated."""
    outputs = (answer.rows, *answer.others)
    arrays = [
        postprocess.answers(column.task, column.head, rows, items, column.params)
        for column, rows in zip(columns, outputs, strict=True)
    ]
    return arrays[0] if len(arrays) == 1 else [np.concatenate(parts) for parts in zip(*arrays, strict=True)]
