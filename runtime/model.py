"""A loaded artifact: takes text, answers numpy. Methods, arguments and outputs are named as vLLM's offline class names them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import artifact, backends, chunks, comparison, overrides, params, plugins, tasks
from .backends.feed import Feed
from .batching import Limits as BatchLimits
from .batching import bounded
from .calls import Answer
from .errors import InputError, UnsupportedTask
from .items import Item, Style
from .manifest import Manifest, RoleName, Task
from .outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    Outputs,
    PoolingOutput,
    PoolingRequestOutput,
    Ranking,
    ScoringOutput,
    mapped,
)
from .params import PoolingParams
from .pending import Pending
from .preparation import Preparation
from .progress import Bar, bar
from .prompts import checked, prompts_from
from .tokenization import shortened, tokenization
from .worker import Policy, Worker

Params = PoolingParams | Sequence[PoolingParams | None] | None

# Slots per batch and the cost of a launch in tokens of work (docs/decisions/batching.md).
CPU_TOKENS, CPU_LAUNCH = 512, 16
PACKED_WIDTH = 200
"""Measured: docs/decisions/packing.md."""
GPU_TOKENS, GPU_LAUNCH = 16384, 1024
# What the logits of a SPLADE batch may take, several times over while they are pooled (docs/decisions/memory.md).
CPU_LOGITS, GPU_LOGITS = 64 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Statistics:
    """Since the model was loaded; `queued_*`, `running_*` and `stalled_s` are of now."""

    requests: int
    """Calls."""
    items: int
    tokens: int
    slots: int
    padding: float
    """Slots over tokens, minus 1."""
    batches: int
    tokenize_s: float
    queue_s: float
    engine_s: float
    failed: int
    cancelled: int
    expired: int
    refused: int
    queued_items: int
    queued_tokens: int
    running_items: int
    stalled_s: float


class Model:
    """Made by `load`. Safe to call from many threads: their items share batches. Close it, or use it as a context manager."""

    def __init__(
        self, folder: Path, manifest: Manifest, choice: backends.Choice, session: backends.Session, preparation: Preparation,
        limits: BatchLimits, max_queued_tokens: int | None = None, policy: Policy = "fcfs", plugin: str | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.manifest = manifest
        self.name = manifest.name
        self.tasks: tuple[Task, ...] = manifest.tasks
        self.max_tokens = manifest.text.max_tokens
        self.preparation = preparation
        self.policy: Policy = policy
        self.engine = choice
        self._preparations = {preparation.style: preparation}
        self._lock = threading.Lock()
        named = manifest.config.get("io_processor_plugin")
        self.plugin_name = plugin or (None if named is None else str(named))
        self._plugin: plugins.Plugin | None = None
        self._requests, self._tokenize_s = 0, 0.0
        self.worker = Worker(
            session, feed=Feed(choice.graph.inputs, pad_id=manifest.text.pad_id), limits=limits,
            max_queued_tokens=max_queued_tokens, policy=policy, name=manifest.name,
        )  # fmt: skip
        # Also runs at interpreter exit, when a model was never closed.
        self._finalizer = weakref.finalize(self, self.worker.close, 5.0)

    # Tasks, waited for

    def embed(self, prompts: Any, *, pooling_params: Params = None, use_tqdm: Bar = False, **options: Any) -> Outputs[EmbeddingOutput]:
        """One vector per prompt: [dim], L2-normalised as the model says. Options: see `start`."""
        self._offered("embed", "Embedding API is not supported by this model.")
        made = self._wait(self.start(prompts, pooling_params, pooling_task="embed", **options), use_tqdm)
        return mapped(made, EmbeddingRequestOutput, lambda output: EmbeddingOutput(output.data))

    def classify(
        self, prompts: Any, *, pooling_params: Params = None, use_tqdm: Bar = False, **options: Any
    ) -> Outputs[ClassificationOutput]:
        """One distribution per prompt: [labels]. Options: see `start`."""
        self._offered("classify", "Classification API is not supported by this model.")
        made = self._wait(self.start(prompts, pooling_params, pooling_task="classify", **options), use_tqdm)
        labels = self.manifest.heads["classify"].labels

        def named(one: PoolingOutput) -> ClassificationOutput:
            best = int(one.data.argmax())
            return ClassificationOutput(one.data, labels[best] if best < len(labels) else None)

        return mapped(made, ClassificationRequestOutput, named)

    def token_embed(self, prompts: Any, *, pooling_params: Params = None, use_tqdm: Bar = False, **options: Any) -> Outputs[PoolingOutput]:
        """[tokens, dim] per prompt. Options: see `start`; `role` prepares a ColBERT query or document as the model's own library does."""
        return self.encode(prompts, pooling_params, pooling_task="token_embed", use_tqdm=use_tqdm, **options)

    def token_classify(
        self, prompts: Any, *, pooling_params: Params = None, use_tqdm: Bar = False, **options: Any
    ) -> Outputs[PoolingOutput]:
        """[tokens, labels] per prompt. Options: see `start`."""
        return self.encode(prompts, pooling_params, pooling_task="token_classify", use_tqdm=use_tqdm, **options)

    def reward(self, prompts: Any, /, *, pooling_params: Params = None, use_tqdm: Bar = False, **options: Any) -> Outputs[PoolingOutput]:
        """What a reward model says of each token: [tokens, labels] per prompt. Options: see `start`."""
        self._offered("token_classify", "Reward API is not supported by this model: it needs token_classify.")
        return self.encode(prompts, pooling_params, pooling_task="token_classify", use_tqdm=use_tqdm, **options)

    def encode(
        self, prompts: Any, pooling_params: Params = None, *, pooling_task: str | None = None, use_tqdm: Bar = False, **options: Any
    ) -> Outputs[PoolingOutput]:
        """Any task by name; `plugin` takes {"data": ...} and answers one output of what the IO processor made. Options: see `start`."""
        if pooling_task == "plugin":
            return self._processed(prompts, pooling_params, use_tqdm, options)
        return self._wait(self.start(prompts, pooling_params, pooling_task=pooling_task, **options), use_tqdm)

    def score(self, data_1: Any, data_2: Any, /, *, use_tqdm: Bar = False, **options: Any) -> Outputs[ScoringOutput]:
        """Scores of 1:1, 1:N or N:N pairs, in order. Options: see `start_score`."""
        return self._wait(self.start_score(data_1, data_2, **options), use_tqdm)

    def rerank(self, query: str, documents: Any, *, top_n: int = 0, use_tqdm: Bar = False, **options: Any) -> Ranking:
        """The documents by falling score; `top_n` 0: all. Options: see `start_score`."""
        return self._wait(self.start_rerank(query, documents, top_n=top_n, **options), use_tqdm)

    # Tasks, started: the caller waits, awaits or cancels

    def start(
        self,
        prompts: Any,
        pooling_params: Params = None,
        *,
        pooling_task: str | None = None,
        truncate_prompt_tokens: int | None = None,
        truncation_side: Literal["left", "right"] | None = None,
        role: RoleName | None = None,
        prompt_name: str | None = None,
        add_special_tokens: bool = True,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        lora_request: object = None,
        deadline_s: float | None = None,
        priority: int = 0,
    ) -> Pending[Outputs[PoolingOutput]]:
        """Checks and tokenises now, in this thread; computes in the worker. Raises InputError or Overload.

        Args:
            prompts: text, token ids, {"prompt": text}, {"prompt_token_ids": ids}, or a sequence of those.
            truncate_prompt_tokens: None refuses longer texts, -1 cuts to the model's limit, k cuts to k tokens.
            truncation_side: None cuts the end but keeps special tokens; else the side whose tokens are lost, special ones too.
            role: `query` or `document`, for models that prepare them differently.
            prompt_name: a stored prompt to put in front.
            deadline_s: seconds until DeadlineExceeded.
            priority: lower is sooner; other than 0 only for a model loaded with scheduling_policy="priority".
        """
        parts = self._parts(pooling_task)
        params.refuse_lora(lora_request)
        deadline = _deadline(deadline_s, priority, self.policy)
        given = checked(prompts_from(prompts))
        # Only embeddings have dimensions, whatever else comes with them.
        wanted = [params.each(pooling_params, len(given)), *(params.without_dimensions(pooling_params, len(given)) for _ in parts[1:])]
        for part, each in zip(parts, wanted, strict=True):
            for one in {id(one): one for one in each}.values():
                params.check(self.manifest, part, one)
        options = tokenization(
            tokenization_kwargs,
            truncate_prompt_tokens=truncate_prompt_tokens,
            truncation_side=truncation_side,
            add_special_tokens=add_special_tokens,
        )
        chunked = self.manifest.chunked and parts == ("embed",)
        limits = chunks.limits(self.manifest, options.limits) if chunked else shortened(options.limits, self.manifest, parts[-1])
        begun = time.perf_counter()
        items = self.preparation.singles(
            given, limits=limits, role=role, prompt_name=prompt_name, add_special_tokens=options.add_special_tokens
        )
        self._prepared(begun)
        heads = [self.manifest.heads[part] for part in parts]
        pieces = chunks.cut(items, self.max_tokens) if chunked else [[item] for item in items]
        run = [piece for group in pieces for piece in group]
        if chunked:
            wanted = [[one for one, group in zip(wanted[0], pieces, strict=True) for _ in group]]

        def finish(answer: Answer) -> Outputs[PoolingOutput]:
            made = zip(parts, heads, (answer.rows, *answer.others), wanted, strict=True)
            columns = [tasks.answers(part, head, rows, run, each) for part, head, rows, each in made]
            arrays = columns[0] if len(columns) == 1 else [np.concatenate(each) for each in zip(*columns, strict=True)]
            if chunked:
                arrays = chunks.joined(arrays, pieces)
            requests = tuple(
                PoolingRequestOutput(PoolingOutput(array), item.ids, item.prompt_tokens, item.truncated, str(index))
                for index, (array, item) in enumerate(zip(arrays, items, strict=True))
            )
            return Outputs(requests, answer.slots / max(answer.tokens, 1) - 1)

        ticket = self.worker.submit(run, *(head.output for head in heads), deadline_s=deadline_s, priority=priority)
        return Pending(ticket, finish, count=len(run), deadline=deadline)

    def start_score(
        self,
        data_1: Any,
        data_2: Any,
        /,
        *,
        pooling_params: PoolingParams | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        max_tokens_per_query: int = 0,
        max_tokens_per_doc: int = 0,
        truncate_prompt_tokens: int | None = None,
        truncation_side: Literal["left", "right"] | None = None,
        cut_document: bool = False,
        preparation: Style | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        lora_request: object = None,
        deadline_s: float | None = None,
        priority: int = 0,
    ) -> Pending[Outputs[ScoringOutput]]:
        """Starts scoring 1:1, 1:N or N:N pairs. Raises InputError, UnsupportedTask or Overload.

        Args:
            chat_template: Jinja text of a score template; template_kwargs, instruction: its variables.
            max_tokens_per_query, max_tokens_per_doc: cut each side's text first; 0: not.
            truncate_prompt_tokens: of the joint pair (cross-encoder) or of each side (others).
            cut_document: truncation shortens only the document.
            preparation: `model` as the model's own library prepares both sides, `vllm` as vLLM does; None: as the model was loaded.
        """
        task = comparison.task_of(self.manifest)
        params.refuse_lora(lora_request)
        deadline = _deadline(deadline_s, priority, self.policy)
        first, second = comparison.sides(self.manifest, data_1, data_2)
        one = params.single(pooling_params)
        extra = params.score_options(one, template_kwargs, instruction, max_tokens_per_query, max_tokens_per_doc)
        if task == "classify":
            params.check(self.manifest, task, one)
        options = tokenization(
            tokenization_kwargs, truncate_prompt_tokens=truncate_prompt_tokens, truncation_side=truncation_side, cut_document=cut_document
        )
        asked = comparison.Asked(limits=options.limits, params=one, template=chat_template, **extra)
        begun = time.perf_counter()
        prepared = comparison.prepare(self.manifest, self._preparation(preparation), first, second, asked)
        self._prepared(begun)
        output = self.manifest.heads[prepared.task].output
        ticket = self.worker.submit(prepared.items, output, deadline_s=deadline_s, priority=priority)
        return Pending(ticket, prepared.finish, count=len(prepared.items), deadline=deadline)

    def start_rerank(self, query: Any, documents: Any, *, top_n: int = 0, **options: Any) -> Pending[Ranking]:
        """Starts a reranking. Options: see `start_score`."""
        if not isinstance(query, str | Mapping):
            raise InputError(f"query: expected one text, found {type(query).__name__}", field="query")
        if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0:
            raise InputError(f"top_n is {top_n!r}, expected 0 (all) or more", field="top_n")
        given = comparison.side(documents, "documents")
        return self.start_score(query, given, **options).then(lambda scored: comparison.ranked(scored, given, top_n))

    # Text

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.preparation.encoder.tokenize(text, add_special_tokens=add_special_tokens)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.preparation.encoder.detokenize(ids)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """A conversation rendered by the model's chat template; embed it with add_special_tokens=False."""
        return self.preparation.chat(messages, **options)

    @property
    def plugin(self) -> plugins.Plugin | None:
        """The IO processor named when the model was loaded, else the one that its checkpoint names; made when first asked for. Raises
        InputError when that cannot be."""
        if self._plugin is None and self.plugin_name is not None:
            with self._lock:
                self._plugin = self._plugin or plugins.opened(self.plugin_name, self.manifest, self.preparation)
        return self._plugin

    # Life

    def statistics(self) -> Statistics:
        counters = self.worker.counters()
        with self._lock:
            requests, tokenize_s = self._requests, self._tokenize_s
        return Statistics(
            requests=requests, tokenize_s=tokenize_s, padding=counters.padding, stalled_s=self.worker.stalled_s(), **asdict(counters)
        )

    def warm_up(self) -> float:
        """Runs the shortest and the longest input through every task's output; answers the seconds it took."""
        begun = time.monotonic()
        # The pad id is in every vocabulary; whatever ids, the same kernels run.
        for output in {head.output for task, head in self.manifest.heads.items() if task in self.tasks}:
            for length in (1, min(self.max_tokens, 512)):
                self.worker.submit([Item(ids=[self.manifest.text.pad_id] * length)], output).result()
        return time.monotonic() - begun

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes what is queued within `timeout_s` seconds, refuses the rest, gives the engine back. Twice is fine."""
        if self._finalizer.detach():
            self.worker.close(timeout_s)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<poolrt model {self.name!r}: {', '.join(self.tasks)}; {self.engine.name}>"

    def _parts(self, pooling_task: str | None) -> tuple[Task, ...]:
        """The tasks whose outputs make up the answer: one, but for vLLM's combined task."""
        if pooling_task is None:
            raise UnsupportedTask(f"pooling_task required for encode; this model's are {', '.join(map(repr, self.tasks))}")
        if pooling_task == tasks.COMBINED and tasks.combines(self.manifest):
            return "embed", "token_classify"
        return (params.check_task(self.manifest, pooling_task),)

    def _processed(self, prompts: Any, pooling_params: Params, use_tqdm: Bar, options: Mapping[str, Any]) -> Outputs[Any]:
        plugin = self.plugin
        if plugin is None:
            raise UnsupportedTask(f"{params.NO_PLUGIN} Give load() or LLM() an io_processor_plugin.")
        if not isinstance(prompts, Mapping) or prompts.get("data") is None:
            raise InputError("pooling_task='plugin' takes one object {'data': ...}, where data is what the plugin asks for", field="data")
        prepared = plugin.prepare(prompts["data"], params=pooling_params)
        task = prepared.task or self.tasks[0]
        made = self._wait(self.start(prepared.prompts, prepared.params, pooling_task=task, **options), use_tqdm)
        return Outputs((PoolingRequestOutput(plugin.finish(prepared, made), [], made.prompt_tokens),), made.padding)

    def _offered(self, task: Task, refusal: str) -> None:
        if task not in self.tasks:
            raise UnsupportedTask(f"{refusal} Its tasks are {', '.join(self.tasks)}; pass one as encode(pooling_task=...)")

    def _preparation(self, style: Style | None) -> Preparation:
        if style is None or style == self.preparation.style:
            return self.preparation
        if style not in ("model", "vllm"):
            raise InputError(f"preparation {style!r} is not 'model' or 'vllm'", field="preparation")
        with self._lock:
            if style not in self._preparations:
                self._preparations[style] = Preparation(self.folder, self.manifest, style=style)
            return self._preparations[style]

    def _prepared(self, begun: float) -> None:
        with self._lock:
            self._requests += 1
            self._tokenize_s += time.perf_counter() - begun

    def _wait(self, pending: Pending[Any], use_tqdm: Bar) -> Any:
        with bar(use_tqdm, pending.count) as progress:
            return pending.result(progress=progress)


def _deadline(deadline_s: float | None, priority: int, policy: Policy) -> float | None:
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InputError(f"priority: expected a whole number, found {type(priority).__name__}", field="priority")
    if priority and policy != "priority":
        raise InputError(
            f"priority {priority}: requests are served in order here (scheduling policy {policy!r}); leave it out, or load the model with "
            "scheduling_policy='priority' (poolrt serve --scheduling-policy priority)",
            field="priority",
        )
    if deadline_s is not None and (isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float)):
        raise InputError(f"deadline_s: expected seconds, found {type(deadline_s).__name__}", field="deadline_s")
    return None if deadline_s is None else time.monotonic() + deadline_s


def _check_arguments(path: object, engine: object, **choices: tuple[object, tuple[str, str]]) -> None:
    if not isinstance(path, str | Path):
        raise InputError(f"path: expected an artifact folder, found {type(path).__name__}", field="path")
    if not isinstance(engine, str):
        raise InputError(f"engine: expected a name such as 'auto', found {type(engine).__name__}", field="engine")
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"{name} {value!r} is not {known[0]!r} or {known[1]!r}", field=name)


def load(
    path: str | Path,
    engine: str = "auto",
    *,
    preparation: Style = "model",
    threads: int | None = None,
    max_batch_tokens: int | None = None,
    max_queued_tokens: int | None = None,
    max_tokens: int | None = None,
    scheduling_policy: Policy = "fcfs",
    io_processor_plugin: str | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    check: artifact.Check = "full",
) -> Model:
    """Opens an artifact folder.

    Args:
        engine: `auto` takes a compiled engine that fits this machine, else ONNX Runtime; see `backends.choose` for the names.
        preparation: how `score` and roles prepare text, and how sparse vectors are compared: as the model's own library (`model`) or as
            vLLM does (docs/decisions/score-preparation.md).
        threads: of ONNX Runtime; None: what affinity and cgroup grant.
        max_batch_tokens: token slots per batch, padding included; None: a measured value for the device.
        max_queued_tokens: Overload is raised beyond this; None: no limit.
        max_tokens: a lower limit for one text than the model's own (vLLM's max_model_len).
        scheduling_policy: `fcfs` serves callers in fair turns, `priority` the lowest `priority` of a call first.
        io_processor_plugin: name of the plugin that `encode(pooling_task="plugin")` runs; None: the one that the checkpoint names.
        hf_overrides: `is_matryoshka` and `matryoshka_dimensions`, the widths that may be asked for; others were decided at export.
        name: what errors call the model; None: the artifact's own name.
        check: `full` compares every file's sha256, `quick` only sizes.

    Raises ArtifactError for a folder that is not whole, EngineError when no engine can be opened, InputError for an argument that
    cannot be.
    """
    _check_arguments(
        path, engine, preparation=(preparation, ("model", "vllm")), scheduling_policy=(scheduling_policy, ("fcfs", "priority")),
        check=(check, ("full", "quick")),
    )  # fmt: skip
    for limit, count in (("threads", threads), ("max_batch_tokens", max_batch_tokens), ("max_queued_tokens", max_queued_tokens)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InputError(f"{limit} is {count!r}, expected a whole number from 1", field=limit)
    opened = artifact.read(path, check=check)
    manifest = opened.manifest
    if max_tokens is not None:
        if not isinstance(max_tokens, int) or not 1 <= max_tokens <= manifest.text.max_tokens:
            raise InputError(
                f"max_tokens is {max_tokens!r}, expected 1 to {manifest.text.max_tokens}, the model's own limit", field="max_tokens"
            )
        manifest = replace(manifest, text=replace(manifest.text, max_tokens=max_tokens))
    if name is not None:
        manifest = replace(manifest, name=name)
    if hf_overrides:
        if flags := list(overrides.undone(manifest, hf_overrides, None, {})):
            raise InputError(f"hf_overrides: export the artifact with {', '.join(flags)}", field="hf_overrides")
        manifest = overrides.widened(manifest, hf_overrides)
    choice = backends.choose(manifest, engine)
    prepared = Preparation(opened.folder, manifest, style=preparation)
    session = backends.open(opened.folder, manifest, choice, threads=threads)
    on_cpu = choice.engine is None and choice.device == "cpu"
    tokens, logits = (CPU_TOKENS, CPU_LOGITS) if on_cpu else (GPU_TOKENS, GPU_LOGITS)
    limits = BatchLimits(
        max_tokens=max_batch_tokens or bounded(tokens, manifest.heads.values(), logits),
        launch_tokens=CPU_LAUNCH if on_cpu else GPU_LAUNCH,
        packed_width=PACKED_WIDTH if on_cpu and choice.graph.packed else None,
        profiles=tuple(session.profiles),
    )
    model = Model(
        opened.folder, manifest, choice, session, prepared, limits, max_queued_tokens, scheduling_policy, io_processor_plugin
    )  # fmt: skip
    if io_processor_plugin is not None:
        try:
            _ = model.plugin
        except BaseException:
            model.close()
            raise
    return model
