"""vLLM's offline class over an artifact: a pooling script ports by its import line and the path of the model.

    from poolrt.runtime import LLM, PoolingParams
    llm = LLM(model="artifacts/bge-m3", runner="pooling")

Constructor keywords of vLLM that change nothing here are accepted. Those that would change the answers were decided when the artifact was
exported: they are accepted when they ask for what it was exported with, else refused with the option that exports it so.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from . import artifact, templates
from .errors import InputError
from .forms import Bar
from .lora import Adapters, Requested
from .manifest import Manifest
from .model import Model, load
from .outputs import ClassificationOutput, EmbeddingOutput, Outputs, PoolingOutput, ScoringOutput
from .plugins.facts import Config, ModelConfig
from .tokenizer import Tokenizer

# Where, how fast and under which name to run: nothing of it changes a number.
_HARMLESS = frozenset({
    "allowed_local_media_path", "allowed_media_domains", "async_scheduling", "attention_backend", "attention_config",
    "block_size", "code_revision", "compilation_config", "config_format", "cpu_offload_gb", "data_parallel_size", "device",
    "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "fully_sharded_loras", "gpu_memory_utilization",
    "hf_token", "kv_cache_dtype", "kv_cache_memory_bytes", "limit_mm_per_prompt", "load_format", "logits_processors",
    "lora_dtype", "max_cpu_loras", "max_lora_rank", "max_loras", "max_num_batched_tokens", "max_num_seqs",
    "max_seq_len_to_capture", "model_impl", "pipeline_parallel_size", "revision", "seed", "served_model_name",
    "skip_tokenizer_init", "swap_space", "tensor_parallel_size", "tokenizer_mode", "tokenizer_revision", "trust_remote_code",
})  # fmt: skip

# keyword -> its option of `poolrt export`
_OPTIONS = {
    "convert": "convert", "hf_overrides": "hf-overrides", "pooler_config": "pooler-config", "override_pooler_config": "pooler-config",
    "dtype": "precision", "quantization": "precision",
}  # fmt: skip
# Each of them says: as the checkpoint is.
_NEUTRAL = (None, "auto", "float32", "float", {})
_PRECISIONS = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
"""dtype -> precision"""
_TASKS = {"embedding": "embed", "reward": "token_classify"}
"""Values of vLLM's earlier keyword `task` -> the task that the model must have."""


class LLM:
    """`model` is an artifact folder; `max_model_len` lowers the limit, `chat_template` is the score or chat template.

    With `enable_lora`, `lora_request` names artifacts that were exported with an adapter of the same checkpoint.
    """

    def __init__(
        self, model: str, *, engine: str = "auto", max_model_len: int | None = None, chat_template: str | None = None,
        io_processor_plugin: str | None = None, enable_lora: bool | None = False, **keywords: Any,
    ) -> None:  # fmt: skip
        problems = list(_unheeded(keywords))
        if asked := {name: value for name, value in keywords.items() if name in (*_OPTIONS, "task") and value not in _NEUTRAL}:
            problems += _undone(asked, artifact.read(model, check="quick").manifest)
        if problems:
            raise InputError(f"LLM(model={model!r}): " + "; ".join(problems))
        self.model: Model = load(model, engine, max_tokens=max_model_len, io_processor_plugin=io_processor_plugin)
        self._chat_template = _template(chat_template)
        self._adapters = Adapters(self.model, partial(load, engine=engine, max_tokens=max_model_len) if enable_lora else None)

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
        **options: Any,
    ) -> Outputs[ScoringOutput]:  # fmt: skip
        template = self._chat_template if chat_template is None else chat_template
        return self._adapters.single(lora_request).score(data_1, data_2, use_tqdm=use_tqdm, chat_template=template, **options)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer(self.model.preparation)

    @property
    def model_config(self) -> ModelConfig:
        """What scripts read of vLLM's: `max_model_len`, `embedding_size`, `is_matryoshka` and a few more."""
        return Config.of(self.model.manifest, self.model.plugin_name).model_config


def _unheeded(keywords: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with keywords whatever the artifact is."""
    for name, value in keywords.items():
        if name == "runner":
            if value not in ("auto", "pooling"):
                yield f"runner={value!r}: artifacts answer pooling tasks only"
        elif name == "tokenizer":
            if value is not None:
                yield f"tokenizer={value!r} changes the answers: export a checkpoint that has this tokenizer"
        elif name not in _HARMLESS and name not in _OPTIONS and name != "task":
            yield f"{name}: not a keyword that poolrt knows"


def _undone(asked: Mapping[str, Any], manifest: Manifest) -> Iterator[str]:
    """Which of the keywords ask for something else than what the artifact was exported with."""
    for name, value in asked.items():
        if name == "task":
            able = bool(manifest.scoring) if value == "score" else _TASKS.get(value, value) in manifest.tasks
            if not able:
                yield f"task={value!r}: this artifact has {', '.join(manifest.tasks)}; another needs an export with --convert"
            continue
        option = _OPTIONS[name]
        if option == "precision":
            wanted = _PRECISIONS.get(value, value) if name == "dtype" else "int8"
            done = manifest.graphs[0].precision
        else:
            wanted = value
            done = manifest.source.overrides.get(option.replace("-", "_"))
        if wanted != done:
            told = wanted if isinstance(wanted, str) else json.dumps(wanted, default=str)
            yield f"{name}={value!r} changes the answers: export the artifact with --{option} {shlex.quote(told)}"


def _template(given: str | None) -> str | None:
    """A template's text: `given` names its file or is itself Jinja."""
    if given is None or any(mark in given for mark in "{}\n"):
        return given
    if not Path(given).is_file():
        raise InputError(f"chat_template {given!r}: neither a file nor a Jinja template", field="chat_template")
    return templates.read(Path(given))
