"""The flags of `poolrt serve` that are no settings of the server: which models it has, how they are exported
and opened, and vLLM's flags that mean nothing to an artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ...runtime.command_line.flags import Argument, Flag, Value
from ...runtime.command_line.values import length_or_auto
from ...runtime.commands.artifact_names import artifact_names
from ...runtime.loader import PREFIX_MB
from ..settings import LOGS, SERVER

MODELS, EXPORT = "models", "exporting a checkpoint first (vLLM's spellings)"

IGNORED: dict[str, int] = {
    # flag -> values it takes
    "tokenizer-mode": 1, "trust-remote-code": 0, "dtype": 1, "seed": 1, "code-revision": 1, "load-format": 1,
    "download-dir": 1, "enforce-eager": 0, "renderer-num-workers": 1, "model-impl": 1, "config-format": 1,
    "enable-offline-docs": 0, "log-error-stack": 0, "enable-flash-late-interaction": 0,
    "no-enable-flash-late-interaction": 0, "mm-processor-cache-type": 1, "mm-encoder-tp-mode": 1,
    "skip-mm-profiling": 0, "no-skip-mm-profiling": 0, "max-num-seqs": 1, "enable-chunked-prefill": 0,
    "no-enable-chunked-prefill": 0,
    "gpu-memory-utilization": 1, "tensor-parallel-size": 1, "pipeline-parallel-size": 1,
    "lora-dtype": 1, "fully-sharded-loras": 0, "swap-space": 1, "kv-cache-dtype": 1,
    "block-size": 1, "max-num-partial-prefills": 1, "disable-log-requests": 0, "compilation-config": 1,
    "optimization-level": 1, "disable-frontend-multiprocessing": 0, "collect-detailed-traces": 1,
}  # fmt: skip
"""vLLM's flags that have no meaning for artifacts. They are accepted with a note, so that a command line
ports by changing the program's name."""


def ignored() -> list[Value]:
    """The flags of IGNORED."""
    return [
        Value(name, Flag(hidden=True, ignored=True), "single" if count else "switch", str, None)
        for name, count in IGNORED.items()
    ]


@dataclass(slots=True, kw_only=True)
class Options:
    values: dict[str, Any] = field(default_factory=dict)
    """Everything that was read, by the names of the flags with underscores."""
    artifacts: Annotated[
        list[str],
        Argument(
            "ARTIFACT",
            "folder, stored name or address (hf://..., s3://...) of an artifact; or a checkpoint's folder or "
            "hub id, which is exported first",
            config=("model", "artifacts"),
            variable="POOLRT_ARTIFACTS",
            complete=artifact_names,
        ),
    ] = field(default_factory=list)
    served_model_name: Annotated[
        list[str],
        Flag("names of the first artifact, or NAME=ARTIFACT for others", MODELS, "NAME", words=True),
    ] = field(default_factory=list)
    engine: Annotated[
        str,
        Flag(
            "auto, onnxruntime, openvino, openvino:bf16, tensorrt-rtx, tensorrt, ...; auto: what fits this "
            "machine; with --precision in that precision, with --precision auto in int8 too",
            MODELS,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Flag(
            "threads of the engine on CPU", MODELS, "N", at_least=1, default="what affinity and cgroup grant"
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        Flag(
            "a lower limit of tokens per text than the model's own; 1k: 1000, 1K: 1024",
            MODELS,
            "N",
            read=length_or_auto,
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None, Flag("token slots per batch, padding included", MODELS, "N", at_least=1)
    ] = None
    response_cache_mb: Annotated[
        float,
        Flag(
            "megabytes of answers kept per model, for equal texts asked again", MODELS, "MB", default="none"
        ),
    ] = 0
    enable_prefix_caching: Annotated[
        bool | None,
        Flag("compute what texts begin with alike once", MODELS, default="where the model can"),
    ] = None
    prefix_cache_mb: Annotated[float, Flag("megabytes of such beginnings kept per model", MODELS, "MB")] = (
        PREFIX_MB
    )
    enable_lora: Annotated[bool, Flag("serve LoRA adapters, each merged into a model of its own", MODELS)] = (
        False
    )
    lora_modules: Annotated[
        list[str], Flag("adapters, or artifacts exported with one", MODELS, "NAME=PATH", words=True)
    ] = field(default_factory=list)
    max_loras: Annotated[
        int | None,
        Flag("adapters that may be loaded at once", MODELS, "N", at_least=1, default="no limit"),
    ] = None
    max_cpu_loras: Annotated[
        int | None, Flag("the same; the larger of both counts", MODELS, "N", at_least=1)
    ] = None
    max_lora_rank: Annotated[
        int | None,
        Flag("refuse adapters of a larger rank", MODELS, "N", at_least=1, default="no limit"),
    ] = None
    io_processor_plugin: Annotated[
        list[str],
        Flag("plugin of the first artifact for /pooling with `data`, or NAME=ARTIFACT", MODELS, words=True),
    ] = field(default_factory=list)
    check: Annotated[
        Literal["full", "once", "quick"],
        Flag(
            "compare sha256 of every file, of those that changed since they were compared last on this "
            "machine, or only sizes",
            MODELS,
        ),
    ] = "once"
    runner: Annotated[
        Literal["auto", "pooling", "generate"] | None, Flag("pooling is the only one there is", EXPORT)
    ] = None
    convert: Annotated[
        Literal["auto", "none", "embed", "classify", "reward"] | None,
        Flag("what to make of the backbone", EXPORT),
    ] = None
    revision: Annotated[str | None, Flag("branch, tag or commit of a hub id", EXPORT)] = None
    subfolder: Annotated[
        str | None, Flag("folder of the checkpoint inside a repository or folder", EXPORT)
    ] = None
    precision: Annotated[str | None, Flag("fp32, fp16, bf16, int8, auto, ...", EXPORT)] = None
    target: Annotated[
        list[str], Flag("also compile an engine; repeat or list several, as for `poolrt export`", EXPORT)
    ] = field(default_factory=list)
    task: Annotated[
        Literal["auto", "embed", "embedding", "classify", "score", "reward"],
        Flag("older word for --convert", EXPORT),
    ] = "auto"
    tokenizer: Annotated[str | None, Flag(hidden=True)] = None
    tokenizer_revision: Annotated[str | None, Flag(hidden=True)] = None
    quantization: Annotated[str | None, Flag(hidden=True)] = None
    hf_overrides: Annotated[
        dict[str, Any], Flag("changes to config.json; also --hf-overrides.key value", EXPORT)
    ] = field(default_factory=dict)
    pooler_config: Annotated[
        dict[str, Any],
        Flag(
            "changes to the head; also --pooler-config.key value", EXPORT, aliases=("override-pooler-config",)
        ),
    ] = field(default_factory=dict)
    cache: Annotated[
        Path | None,
        Flag("where exported artifacts are kept", EXPORT, "FOLDER", default="~/.cache/poolrt/artifacts"),
    ] = None
    api_server_count: Annotated[
        int | None,
        Flag(
            "processes that serve the port, each with models of its own",
            SERVER,
            "N",
            at_least=1,
            aliases=("asc",),
            default="--data-parallel-size",
        ),
    ] = None
    data_parallel_size: Annotated[
        int,
        Flag(
            "engines: process i computes on GPU i, or on its share of the processors, by NUMA node",
            SERVER,
            "N",
            at_least=1,
            aliases=("dp",),
        ),
    ] = 1
    device: Annotated[
        str,
        Flag("auto, cpu, cuda, cuda:N, or several (cuda:0,cuda:2), which the processes take in turn", SERVER),
    ] = "auto"
    insecure_no_auth: Annotated[
        bool, Flag("allow other machines to reach a server without a key", SERVER)
    ] = False
    disable_access_log_for_endpoints: Annotated[
        str, Flag("comma-separated, e.g. /health,/metrics", LOGS, "PATHS")
    ] = ""
    log_config_file: Annotated[
        Path | None, Flag("JSON for logging.config.dictConfig, instead of these levels", LOGS, "FILE")
    ] = None
