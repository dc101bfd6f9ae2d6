"""vLLM's offline class over an artifact: a pooling script ports by its import line and the path of the model.

    from poolrt.runtime import LLM, PoolingParams
    llm = LLM(model="artifacts/bge-m3", runner="pooling")

Constructor keywords of vLLM that change nothing here are accepted; those that would change the answers were decided when the
artifact was exported, and are refused with where to say them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from . import templates
from .errors import InputError
from .forms import Bar
from .lora import Adapters, Requested
from .model import Model, load
from .outputs import ClassificationOutput, EmbeddingOutput, Outputs, PoolingOutput, ScoringOutput
from .tokenizer import Tokenizer

# Where, how fast and under which name to run: nothing of it changes a number.
_HARMLESS = frozenset({
    "allowed_local_media_path", "allowed_media_domains", "async_scheduling", "attention_backend", "attention_config",
    "block_size", "code_revision", "compilation_config", "cpu_offload_gb", "data_parallel_size", "device",
    "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "fully_sharded_loras", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "limit_mm_per_prompt", "load_format", "logits_processors", "lora_dtype", "max_cpu_loras", "max_lora_rank",
    "max_loras", "max_num_batched_tokens", "max_num_seqs",
    "max_seq_len_to_capture", "model_impl", "pipeline_parallel_size", "revision", "seed", "served_model_name",
    "skip_tokenizer_init", "swap_space", "tensor_parallel_size", "tokenizer_mode", "tokenizer_revision", "trust_remote_code",
})  # fmt: skip

# keyword -> (values that mean "as the checkpoint says", where to say it instead)
_EXPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "convert": (("auto", None), "--convert"),
    "pooler_config": ((None, {}), "--pooler-config"),
    "override_pooler_config": ((None, {}), "--pooler-config"),
    "hf_overrides": ((None, {}), "--hf-overrides"),
    "dtype": (("auto", None, "float32", "float"), "--precision"),
    "quantization": ((None,), "--precision int8"),
    "tokenizer": ((None,), "a checkpoint with that tokenizer"),
}


class LLM:
    """`model` is an artifact folder; `max_model_len` lowers the limit, `chat_template` is the score or chat template.

    With `enable_lora`, `lora_request` names artifacts that were exported with an adapter of the same checkpoint.
    """

    def __init__(
        self, model: str, *, engine: str = "auto", max_model_len: int | None = None, chat_template: str | None = None,
        io_processor_plugin: str | None = None, enable_lora: bool | None = False, **keywords: Any,
    ) -> None:  # fmt: skip
        problems = []
        for name, value in keywords.items():
            if name in _EXPORTED:
                neutral, option = _EXPORTED[name]
                if not any(value == one and type(value) is type(one) for one in neutral):
                    problems.append(f"{name}={value!r} changes the answers: export the artifact with {option}")
            elif name == "runner":
                if value not in ("auto", "pooling"):
                    problems.append(f"runner={value!r}: artifacts answer pooling tasks only")
            elif name not in _HARMLESS:
                problems.append(f"{name}: not a keyword that vLLM's LLM or poolrt knows")
        if problems:
            raise InputError(f"LLM(model={model!r}): " + "; ".join(problems))
        self.model: Model = load(model, engine, max_tokens=max_model_len, io_processor_plugin=io_processor_plugin)
        self._chat_template = _template(chat_template)
        self._adapters = Adapters(self.model, partial(load, engine=engine, max_tokens=max_model_len) if enable_lora else None)

    def embed(
        self, prompts: Any, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[EmbeddingOutput]:
        def ask(model: Model, given: Any, params: Any) -> Outputs[Any]:
            return model.embed(given, pooling_params=params, use_tqdm=use_tqdm, **options)

        return self._adapters.answers(lora_request, prompts, pooling_params, ask)

    def classify(
        self, prompts: Any, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[ClassificationOutput]:
        def ask(model: Model, given: Any, params: Any) -> Outputs[Any]:
            return model.classify(given, pooling_params=params, use_tqdm=use_tqdm, **options)

        return self._adapters.answers(lora_request, prompts, pooling_params, ask)

    def reward(
        self, prompts: Any, /, *, use_tqdm: Bar = True, pooling_params: Any = None, lora_request: Requested = None, **options: Any
    ) -> Outputs[PoolingOutput]:
        def ask(model: Model, given: Any, params: Any) -> Outputs[Any]:
            return model.reward(given, pooling_params=params, use_tqdm=use_tqdm, **options)

        return self._adapters.answers(lora_request, prompts, pooling_params, ask)

    def encode(
        self, prompts: Any, pooling_params: Any = None, *, use_tqdm: Bar = True, lora_request: Requested = None, **options: Any
    ) -> Outputs[PoolingOutput]:
        def ask(model: Model, given: Any, params: Any) -> Outputs[Any]:
            return model.encode(given, params, use_tqdm=use_tqdm, **options)

        return self._adapters.answers(lora_request, prompts, pooling_params, ask)

    def score(
        self, data_1: Any, data_2: Any, /, *, use_tqdm: Bar = True, chat_template: str | None = None, lora_request: Requested = None,
        **options: Any,
    ) -> Outputs[ScoringOutput]:  # fmt: skip
        template = self._chat_template if chat_template is None else chat_template
        return self._adapters.single(lora_request).score(data_1, data_2, use_tqdm=use_tqdm, chat_template=template, **options)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer(self.model.preparation)


def _template(given: str | None) -> str | None:
    """A template's text: `given` names its file or is itself Jinja."""
    if given is None or any(mark in given for mark in "{}\n"):
        return given
    if not Path(given).is_file():
        raise InputError(f"chat_template {given!r}: neither a file nor a Jinja template", field="chat_template")
    return templates.read(Path(given))
