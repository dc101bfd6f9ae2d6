"""vLLM's offline class: a pooling script ports by its import line.

    from poolrt.runtime import LLM, PoolingParams
    llm = LLM(model="BAAI/bge-m3", runner="pooling")

A checkpoint is exported once, into the cache of `poolrt serve`. Constructor keywords of vLLM that
change nothing here are accepted. A keyword that would change the numbers of a finished artifact is
accepted where the artifact was exported with that value. Any other value is refused, and the error
names the option of `poolrt export`. Longer than 300 lines, because half is docstrings with examples,
the keywords of vLLM, and errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from ..answers import score_request
from ..answers.params import Params
from ..artifact import checkpoints, overrides, reading, spellings
from ..artifact.manifest import WEIGHT_ONLY, Manifest
from ..batching.line import Policy
from ..errors import InputError
from ..inputs import templates
from ..inputs.items import Style
from ..inputs.library_tokenizer import Tokenizer
from ..inputs.prompts import Prompts, ScoreTexts
from ..loader import CACHE_GB, load
from ..model import Model
from ..options import ClassifyOptions, EmbedOptions, EncodeOptions, ScoreOptions, check, suggestion
from ..outputs import ClassificationOutput, EmbeddingOutput, Outputs, PoolingOutput, Result, ScoringOutput
from ..plugins.model_facts import Config, ModelConfig
from ..store import resolving
from .lora import AdapterModels
from .pooler_config import PoolerConfig

# These say where, how fast and under which name to run. None changes a number.
_HARMLESS = frozenset({
    "allowed_local_media_path", "allowed_media_domains", "async_scheduling", "attention_backend",
    "attention_config", "block_size", "code_revision", "compilation_config", "config_format",
    "cpu_offload_gb", "data_parallel_size", "device", "disable_cascade_attn", "disable_custom_all_reduce",
    "disable_log_stats", "distributed_executor_backend", "download_dir", "enable_chunked_prefill",
    "enable_mm_embeds", "enforce_eager", "fully_sharded_loras",
    "gpu_memory_utilization", "hf_token", "kv_cache_dtype", "kv_cache_memory_bytes", "load_format",
    "logits_processors", "lora_dtype", "max_cpu_loras", "max_lora_rank", "max_loras",
    "max_num_batched_tokens", "max_num_seqs", "max_seq_len_to_capture", "mm_encoder_tp_mode",
    "mm_processor_cache_type", "model_impl", "pipeline_parallel_size", "seed", "served_model_name",
    "skip_mm_profiling", "skip_tokenizer_init", "swap_space", "tensor_parallel_size", "tokenizer_mode",
    "trust_remote_code",
})  # fmt: skip

_OWN = ("task", "dtype", "quantization", "runner", "tokenizer", "tokenizer_revision")
"""Keywords of vLLM that are compared with the artifact."""

# Values of a keyword that leave the checkpoint as it is.
_NEUTRAL = (None, "auto", "float32", "float", {})
_PRECISIONS = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
"""dtype -> precision"""
_TASKS = {"embedding": "embed", "reward": "token_classify"}
"""Values of vLLM's earlier keyword `task` -> the task that the model must have."""


class LLM:
    """Opens a model under vLLM's names; a checkpoint is exported first. Raises InputError for a keyword that
    cannot be followed, ArtifactError or CheckpointError for a folder that is unusable, EngineError when no
    engine can be opened.

    Args:
        model: artifact folder, checkpoint folder or hub id.
        max_model_len: a lower limit for one text than the model's own, in tokens.
        chat_template: the score or chat template: Jinja, a file, or the path of one that comes with poolrt.
        enable_lora: lets `lora_request` name adapters of the checkpoint, or artifacts exported with one.
        preparation: `vllm` scores as vLLM does, `model` as the model's authors do
            (docs/decisions/score-preparation.md).
        limit_mm_per_prompt: most pictures and videos of one prompt, as {"image": 2}.
        mm_processor_kwargs: how pictures are prepared where a prompt says nothing else.
        mm_processor_cache_gb: gigabytes of features of pictures that are kept for later prompts; 0: none.
        media_io_kwargs: how many frames of a video are read: {"video": {"num_frames": 16}}.
        enable_prefix_caching: whether what prompts begin with alike is computed once; None: where the model
            can.
    """

    def __init__(
        self,
        model: str,
        *,
        engine: str = "auto",
        max_model_len: int | None = None,
        chat_template: str | None = None,
        io_processor_plugin: str | None = None,
        enable_lora: bool | None = False,
        convert: str = "auto",
        hf_overrides: Mapping[str, Any] | None = None,
        pooler_config: PoolerConfig | Mapping[str, Any] | None = None,
        override_pooler_config: PoolerConfig | Mapping[str, Any] | None = None,
        revision: str | None = None,
        precision: str | None = None,
        preparation: Style = "vllm",
        scheduling_policy: Policy = "fcfs",
        limit_mm_per_prompt: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        mm_processor_cache_gb: float = CACHE_GB,
        media_io_kwargs: Mapping[str, Any] | None = None,
        enable_prefix_caching: bool | None = None,
        **keywords: Any,
    ) -> None:
        pooler = {**_pooler(override_pooler_config), **_pooler(pooler_config)}
        wanted = _Wanted(dict(_overrides(hf_overrides)), convert, pooler, revision, precision)
        name, place = resolving.artifact_or_checkpoint(str(model))
        finished = checkpoints.is_artifact(name)
        problems = list(_unheeded(keywords, str(model), revision))
        if finished and not problems:
            problems = list(_undone(wanted, keywords, reading.read(name, check="quick").manifest))
        if problems:
            raise InputError(f"LLM(model={name!r}): " + "; ".join(problems))
        template = None if chat_template is None else templates.named(chat_template, "chat_template")
        options = [] if finished else [*wanted.options(keywords.get("task")), *place]
        folder = checkpoints.artifact_of(name, options)
        # The export of a checkpoint holds its overrides already.
        widths = {
            key: value for key, value in wanted.hf_overrides.items() if finished and key in overrides.WIDTHS
        }
        opened = partial(
            load,
            engine=engine,
            max_tokens=max_model_len,
            hf_overrides=widths,
            scheduling_policy=scheduling_policy,
            limit_mm_per_prompt=limit_mm_per_prompt,
            mm_processor_kwargs=mm_processor_kwargs,
            mm_processor_cache_gb=mm_processor_cache_gb,
            media_io_kwargs=media_io_kwargs,
            enable_prefix_caching=enable_prefix_caching,
        )
        self.model: Model = opened(folder, io_processor_plugin=io_processor_plugin)
        self._chat_template = template
        self._preparation: Style = preparation
        merge = None if finished else partial(_with_adapter, name, options)
        self._adapters = AdapterModels(self.model, opened if enable_lora else None, merge)

    def embed(self, prompts: Prompts, **options: Unpack[EmbedOptions]) -> Outputs[EmbeddingOutput]:
        """One vector per prompt: [dim], L2-normalised as the model says.

        >>> llm = LLM("artifacts/all-MiniLM-L6-v2")
        >>> llm.embed("a first text", use_tqdm=False)
        Outputs([EmbeddingOutput([..., ..., ...], dim=384)], prompt_tokens=5)
        """
        check("embed", options, EmbedOptions)
        return self._pooled(Model.embed, prompts, options)

    def classify(self, prompts: Prompts, **options: Unpack[ClassifyOptions]) -> Outputs[ClassificationOutput]:
        """One distribution per prompt: [labels].

        >>> llm = LLM("artifacts/sentiment")
        >>> llm.classify("what a good film", use_tqdm=False)[0].outputs.num_classes
        3
        """
        check("classify", options, ClassifyOptions)
        return self._pooled(Model.classify, prompts, options)

    def reward(self, prompts: Prompts, /, **options: Unpack[ClassifyOptions]) -> Outputs[PoolingOutput]:
        """What a reward model says of each token: [tokens, labels] per prompt.

        >>> llm = LLM("artifacts/entities")
        >>> llm.reward("a step of a solution", use_tqdm=False)[0].outputs.data.shape[1]
        5
        """
        check("reward", options, ClassifyOptions)
        return self._pooled(Model.reward, prompts, options)

    def encode(
        self, prompts: Prompts, pooling_params: Params = None, **options: Unpack[EncodeOptions]
    ) -> Outputs[PoolingOutput]:
        """Any task by name.

        >>> llm = LLM("artifacts/all-MiniLM-L6-v2")
        >>> llm.encode("a first text", pooling_task="token_embed", use_tqdm=False)[0].outputs.data.shape
        (5, 384)
        """
        check("encode", options, EncodeOptions, "pooling_params")
        return self._pooled(Model.encode, prompts, {**options, "pooling_params": pooling_params})

    def score(
        self, data_1: ScoreTexts, data_2: ScoreTexts, /, **options: Unpack[ScoreOptions]
    ) -> Outputs[ScoringOutput]:
        """Scores of 1:1, 1:N or N:N pairs, in order, as vLLM computes them unless the model was opened
        with another `preparation`.

        >>> llm = LLM("artifacts/all-MiniLM-L6-v2")
        >>> outputs = llm.score("a loaf", ["a loaf", "the train is late"], use_tqdm=False)
        >>> [round(output.outputs.score) for output in outputs]
        [1, 0]
        """
        check("score", options, ScoreOptions)
        model = self._adapters.single(options.get("lora_request"))
        # The constructor's template may be for conversations, and only a cross-encoder scores with one.
        template = self._chat_template if model.manifest.scoring == "cross-encoder" else None
        chat_template = options.get("chat_template")
        if chat_template is not None:
            template = templates.named(chat_template, "chat_template")
        preparation = options.get("preparation")
        style = score_request.style(
            model.manifest,
            self._preparation if preparation is None else preparation,
            templated=template is not None,
        )
        changed: ScoreOptions = {"chat_template": template, "preparation": style, "lora_request": None}
        return model.score(data_1, data_2, **{"use_tqdm": True, **options, **changed})

    def _pooled(
        self, method: Callable[..., Outputs[Result]], prompts: Prompts, options: Mapping[str, Any]
    ) -> Outputs[Result]:
        """Runs a method of Model, by the base or by the adapters that `lora_request` names."""
        rest = {"use_tqdm": True, **options}
        requested, pooling_params = rest.pop("lora_request", None), rest.pop("pooling_params", None)

        def ask(model: Model, part: Any, part_params: Any) -> Outputs[Any]:
            return method(model, part, pooling_params=part_params, **rest)

        return self._adapters.answers(requested, prompts, pooling_params, ask)

    def get_tokenizer(self) -> Tokenizer:
        """The part of a Hugging Face tokenizer that scripts use.

        >>> LLM("artifacts/all-MiniLM-L6-v2").get_tokenizer().encode("a first text")
        [101, 1037, 2034, 3793, 102]
        """
        return Tokenizer(self.model.preparation)

    @property
    def model_config(self) -> ModelConfig:
        """The keys of vLLM's that scripts read: `max_model_len`, `embedding_size`,
        `is_matryoshka` and a few more.

        >>> LLM("artifacts/all-MiniLM-L6-v2").model_config.embedding_size
        384
        """
        return Config.of(self.model.manifest, self.model.plugin_name).model_config


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The part of an export that the constructor's keywords name."""

    hf_overrides: dict[str, Any]
    convert: str
    pooler_config: dict[str, object]
    revision: str | None
    precision: str | None

    def options(self, task: str | None) -> list[str]:
        """Arguments of `poolrt export` for a checkpoint."""
        convert = (
            checkpoints.CONVERSIONS.get(task or "auto", task) if self.convert == "auto" else self.convert
        )
        values = {"revision": self.revision, "precision": self.precision, "convert": convert}
        return checkpoints.options_of(
            values | {"hf_overrides": self.hf_overrides, "pooler_config": self.pooler_config}
        )


def _overrides(hf_overrides: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if hf_overrides is not None and not isinstance(hf_overrides, Mapping):
        raise InputError(
            f"hf_overrides: expected a dict, found {type(hf_overrides).__name__}", field="hf_overrides"
        )
    return hf_overrides or {}


def _pooler(config: PoolerConfig | Mapping[str, Any] | None) -> dict[str, object]:
    if isinstance(config, PoolerConfig):
        return config.changed()
    if config is not None and not isinstance(config, Mapping):
        raise InputError(
            f"pooler_config: expected PoolerConfig or a dict, found {type(config).__name__}",
            field="pooler_config",
        )
    return dict(config or {})


def _unheeded(keywords: Mapping[str, Any], model: str, revision: str | None) -> Iterator[str]:
    """Yields a sentence for each keyword that no artifact could follow."""
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
        elif name not in _HARMLESS and name not in _OWN:
            yield f"{name}: not a keyword that poolrt knows{suggestion(name, _KEYWORDS)}"
    if keywords.get("quantization") not in _NEUTRAL:
        yield (
            f"quantization={keywords['quantization']!r} changes the answers: give precision='int8' (or "
            "'int8-weights', 'int4-weights'), or an artifact of that --precision"
        )


def _undone(wanted: _Wanted, keywords: Mapping[str, Any], manifest: Manifest) -> Iterator[str]:
    """Yields a sentence for each keyword that differs from what the artifact was exported with."""
    for option in overrides.undone(manifest, wanted.hf_overrides, wanted.convert, wanted.pooler_config):
        keyword = option.partition(" ")[0][2:].replace("-", "_")
        yield f"{keyword} changes the answers: export the artifact with {option}"
    if wanted.revision not in (None, manifest.source.revision):
        yield (
            f"revision={wanted.revision!r}: the artifact is of revision "
            f"{manifest.source.revision!r}; export that one"
        )
    dtype = keywords.get("dtype")
    precision = wanted.precision or (None if dtype in _NEUTRAL else _PRECISIONS.get(str(dtype), str(dtype)))
    precision = None if precision is None else spellings.precision(precision)
    known = {graph.stored if graph.stored in WEIGHT_ONLY else graph.precision for graph in manifest.graphs}
    if precision is not None and precision not in known:
        yield f"precision {precision} changes the answers: export the artifact with --precision {precision}"
    task = keywords.get("task")
    if task not in _NEUTRAL:
        able = bool(manifest.scoring) if task == "score" else _TASKS.get(task, task) in manifest.tasks
        if not able:
            yield (
                f"task={task!r}: this artifact has {', '.join(manifest.tasks)}; another needs "
                "an export with --convert"
            )


def _with_adapter(checkpoint: str, options: Sequence[str], adapter: str) -> Path:
    """The artifact of the checkpoint with a LoRA adapter (folder or hub id) merged into it."""
    return checkpoints.exported(checkpoint, [*options, "--lora", adapter])


_KEYWORDS = {
    name: repr(name) for name in (*_HARMLESS, *_OWN, *inspect.signature(LLM).parameters) if name != "keywords"
}
