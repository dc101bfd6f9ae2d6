"""vLLM's offline class: a pooling script ports by its import line.

    from poolrt.runtime import LLM, PoolingParams
    llm = LLM(model="BAAI/bge-m3", runner="pooling")

A checkpoint is exported once, into the cache of `poolrt serve`. Constructor keywords of vLLM that change nothing here are accepted. Those
that would change the answers of a finished artifact are accepted when they ask for what it was exported with, else refused with the
option that exports it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import artifact, checkpoints, comparison, overrides, templates
from .errors import InputError
from .items import Style
from .lora import Adapters, Requested
from .manifest import Manifest
from .model import Model, Policy, load
from .outputs import ClassificationOutput, EmbeddingOutput, Outputs, PoolingOutput, ScoringOutput
from .plugins.facts import Config, ModelConfig
from .pooler_config import PoolerConfig
from .progress import Bar
from .tokenizer import Tokenizer

# Where, how fast and under which name to run: nothing of it changes a number.
_HARMLESS = frozenset({
    "allowed_local_media_path", "allowed_media_domains", "async_scheduling", "attention_backend", "attention_config",
    "block_size", "code_revision", "compilation_config", "config_format", "cpu_offload_gb", "data_parallel_size", "device",
    "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "fully_sharded_loras", "gpu_memory_utilization",
    "hf_token", "kv_cache_dtype", "kv_cache_memory_bytes", "limit_mm_per_prompt", "load_format", "logits_processors",
    "lora_dtype", "max_cpu_loras", "max_lora_rank", "max_loras", "max_num_batched_tokens", "max_num_seqs",
    "max_seq_len_to_capture", "model_impl", "pipeline_parallel_size", "seed", "served_model_name",
    "skip_tokenizer_init", "swap_space", "tensor_parallel_size", "tokenizer_mode", "trust_remote_code",
})  # fmt: skip

# Each of them says: as the checkpoint is.
_NEUTRAL = (None, "auto", "float32", "float", {})
_PRECISIONS = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
"""dtype -> precision"""
_TASKS = {"embedding": "embed", "reward": "token_classify"}
"""Values of vLLM's earlier keyword `task` -> the task that the model must have."""


class LLM:
    """`model` is an artifact folder, a checkpoint folder or a hub id; `max_model_len` lowers the limit, `chat_template` is the score or
    chat template: Jinja, a file, or the path of one that comes with poolrt.

    `preparation`: scores as vLLM computes them, or `model`: as the model's authors do (docs/decisions/score-preparation.md).
    With `enable_lora`, `lora_request` names adapters of the checkpoint, or artifacts that were exported with one.
    """

    def __init__(
        self, model: str, *, engine: str = "auto", max_model_len: int | None = None, chat_template: str | None = None,
        io_processor_plugin: str | None = None, enable_lora: bool | None = False, convert: str = "auto",
        hf_overrides: Mapping[str, Any] | None = None, pooler_config: PoolerConfig | Mapping[str, Any] | None = None,
        override_pooler_config: PoolerConfig | Mapping[str, Any] | None = None, revision: str | None = None,
        precision: str | None = None, preparation: Style = "vllm", scheduling_policy: Policy = "fcfs", **keywords: Any,
    ) -> None:  # fmt: skip
        pooler = {**_pooler(override_pooler_config), **_pooler(pooler_config)}
        wanted = _Wanted(dict(_overrides(hf_overrides)), convert, pooler, revision, precision)
        name, finished = str(model), checkpoints.is_artifact(model)
        problems = list(_unheeded(keywords, name, revision))
        if finished and not problems:
            problems = list(_undone(wanted, keywords, artifact.read(model, check="quick").manifest))
        if problems:
            raise InputError(f"LLM(model={name!r}): " + "; ".join(problems))
        template = None if chat_template is None else templates.named(chat_template, "chat_template")
        options = [] if finished else wanted.options(keywords.get("task"))
        folder = checkpoints.artifact_of(name, options)
        # A checkpoint's own overrides are in its export.
        widths = {key: value for key, value in wanted.hf_overrides.items() if finished and key in overrides.WIDTHS}
        opened = partial(load, engine=engine, max_tokens=max_model_len, hf_overrides=widths, scheduling_policy=scheduling_policy)
        self.model: Model = opened(folder, io_processor_plugin=io_processor_plugin)
        self._chat_template = template
        self._preparation: Style = preparation
        merge = None if finished else partial(_with_adapter, name, options)
        self._adapters = Adapters(self.model, opened if enable_lora else None, merge)

    def embed(
        self, prompts: Any, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[EmbeddingOutput]:
        return self._asked(Model.embed, prompts, pooling_params, lora_request, use_tqdm=use_tqdm, **options)

    def classify(
        self, prompts: Any, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[ClassificationOutput]:
        return self._asked(Model.classify, prompts, pooling_params, lora_request, use_tqdm=use_tqdm, **options)

    def reward(
        self, prompts: Any, /, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[PoolingOutput]:
        return self._asked(Model.reward, prompts, pooling_params, lora_request, use_tqdm=use_tqdm, **options)

    def encode(
        self, prompts: Any, pooling_params: Any = None, *, use_tqdm: Bar = True, lora_request: Requested = None, **options: Any
    ) -> Outputs[PoolingOutput]:
        return self._asked(Model.encode, prompts, pooling_params, lora_request, use_tqdm=use_tqdm, **options)

    def _asked(
        self, method: Callable[..., Outputs[Any]], prompts: Any, pooling_params: Any, lora_request: Requested, **options: Any
    ) -> Outputs[Any]:
        def ask(model: Model, given: Any, params: Any) -> Outputs[Any]:
            return method(model, given, pooling_params=params, **options)

        return self._adapters.answers(lora_request, prompts, pooling_params, ask)

    def score(
        self, data_1: Any, data_2: Any, /, *, use_tqdm: Bar = True, chat_template: str | None = None, lora_request: Requested = None,
        preparation: Style | None = None, **options: Any,
    ) -> Outputs[ScoringOutput]:  # fmt: skip
        model = self._adapters.single(lora_request)
        # The constructor's may be for conversations: an embedder scores without one.
        template = self._chat_template if model.manifest.scoring == "cross-encoder" else None
        if chat_template is not None:
            template = templates.named(chat_template, "chat_template")
        style = comparison.style(model.manifest, self._preparation if preparation is None else preparation, templated=template is not None)
        return model.score(data_1, data_2, use_tqdm=use_tqdm, chat_template=template, preparation=style, **options)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer(self.model.preparation)

    @property
    def model_config(self) -> ModelConfig:
        """What scripts read of vLLM's: `max_model_len`, `embedding_size`, `is_matryoshka` and a few more."""
        return Config.of(self.model.manifest, self.model.plugin_name).model_config


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the constructor's keywords say of an export."""

    hf_overrides: dict[str, Any]
    convert: str
    pooler_config: dict[str, object]
    revision: str | None
    precision: str | None

    def options(self, task: str | None) -> list[str]:
        """Arguments of `poolrt export` for a checkpoint."""
        convert = checkpoints.CONVERSIONS.get(task or "auto", task) if self.convert == "auto" else self.convert
        values = {"revision": self.revision, "precision": self.precision, "convert": convert}
        return checkpoints.options_of(values | {"hf_overrides": self.hf_overrides, "pooler_config": self.pooler_config})


def _overrides(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"hf_overrides: expected a dict, found {type(given).__name__}", field="hf_overrides")
    return given or {}


def _pooler(given: PoolerConfig | Mapping[str, Any] | None) -> dict[str, object]:
    if isinstance(given, PoolerConfig):
        return given.asked()
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"pooler_config: expected PoolerConfig or a dict, found {type(given).__name__}", field="pooler_config")
    return dict(given or {})


def _unheeded(keywords: Mapping[str, Any], model: str, revision: str | None) -> Iterator[str]:
    """What is wrong with keywords whatever the artifact is."""
    for name, value in keywords.items():
        if name == "runner":
            if value not in ("auto", "pooling"):
                yield f"runner={value!r}: artifacts answer pooling tasks only"
        elif name == "tokenizer":
            if value not in (None, model):
                yield f"tokenizer={value!r} changes the answers: export a checkpoint that has this tokenizer"
        elif name == "tokenizer_revision":
            if value not in (None, revision):
                yield f"tokenizer_revision={value!r}: tokenizer and weights are those of one revision"
        elif name not in _HARMLESS and name not in ("task", "dtype", "quantization"):
            yield f"{name}: not a keyword that poolrt knows"
    if keywords.get("quantization") not in _NEUTRAL:
        yield f"quantization={keywords['quantization']!r} changes the answers: give precision='int8', or an artifact of --precision int8"


def _undone(wanted: _Wanted, keywords: Mapping[str, Any], manifest: Manifest) -> Iterator[str]:
    """Which of the keywords ask for something else than what the artifact was exported with."""
    for option in overrides.undone(manifest, wanted.hf_overrides, wanted.convert, wanted.pooler_config):
        keyword = option.partition(" ")[0][2:].replace("-", "_")
        yield f"{keyword} changes the answers: export the artifact with {option}"
    if wanted.revision not in (None, manifest.source.revision):
        yield f"revision={wanted.revision!r}: the artifact is of revision {manifest.source.revision!r}; export that one"
    dtype = keywords.get("dtype")
    precision = wanted.precision or (None if dtype in _NEUTRAL else _PRECISIONS.get(str(dtype), str(dtype)))
    if precision is not None and precision not in [graph.precision for graph in manifest.graphs]:
        yield f"precision {precision} changes the answers: export the artifact with --precision {precision}"
    task = keywords.get("task")
    if task not in _NEUTRAL:
        able = bool(manifest.scoring) if task == "score" else _TASKS.get(task, task) in manifest.tasks
        if not able:
            yield f"task={task!r}: this artifact has {', '.join(manifest.tasks)}; another needs an export with --convert"


def _with_adapter(checkpoint: str, options: Sequence[str], adapter: str) -> Path:
    """The artifact of the checkpoint with a LoRA adapter (folder or hub id) merged into it."""
    return checkpoints.exported(checkpoint, [*options, "--lora", adapter])
