"""The flags of `poolrt serve`, and how the values of those that take JSON are read.

It is longer than other files because it lists every flag.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ...runtime.artifact.checkpoints import CONVERSIONS
from ...runtime.commands.command_line import Parser, length_or_auto, natural, positive
from ...runtime.loader import PREFIX_MB
from ..flags import END_OF_VALUES, IGNORED
from ..settings import TLS_CIPHERS, Media


def parser_of() -> Parser:
    """The parser of `poolrt serve`."""
    parser = Parser(
        prog="poolrt serve", description="Serve artifacts behind vLLM's HTTP API.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--json",
        action="store_true",
        help="log lines as JSON on stderr; one line on stdout when ready, with the URL, or with the error",
    )
    add(f"--{END_OF_VALUES}", action="store_true", help=argparse.SUPPRESS)
    add(
        "artifacts",
        nargs="*",
        default=[],
        metavar="ARTIFACT",
        help="artifact folder; or a checkpoint folder or hub id, which is exported first",
    )
    _add_models(parser)
    _add_export(parser)
    _add_server(parser)
    _add_templates(parser)
    _add_media(parser)
    _add_limits(parser)
    for name, count in IGNORED.items():
        target = f"ignored_{name.replace('-', '_')}"
        if count:
            parser.add_argument(f"--{name}", dest=target, nargs=1, help=argparse.SUPPRESS)
        else:
            parser.add_argument(
                f"--{name}", dest=target, action="store_const", const=True, help=argparse.SUPPRESS
            )
    return parser


def _add_models(parser: Parser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--served-model-name",
        nargs="+",
        default=[],
        help="names of the first artifact, or NAME=ARTIFACT for others",
    )
    group.add_argument(
        "--engine",
        default="auto",
        help="auto, onnxruntime, openvino, openvino:bf16, tensorrt-rtx, tensorrt, ... (default: auto, what "
        "fits this machine; with --precision in that precision, with --precision auto in int8 too)",
    )
    group.add_argument(
        "--threads",
        type=positive,
        help="threads of the engine on CPU (default: what affinity and cgroup grant)",
    )
    group.add_argument(
        "--max-model-len",
        type=length_or_auto,
        help="a lower limit of tokens per text than the model's own; 1k: 1000, 1K: 1024",
    )
    group.add_argument(
        "--max-num-batched-tokens", type=positive, help="token slots per batch, padding included"
    )
    group.add_argument(
        "--response-cache-mb",
        type=float,
        default=0,
        metavar="MB",
        help="megabytes of answers kept per model, for equal texts asked again (default: none)",
    )
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="compute what texts begin with alike once (default: where the model can)",
    )
    group.add_argument(
        "--prefix-cache-mb",
        type=float,
        default=PREFIX_MB,
        metavar="MB",
        help=f"megabytes of such beginnings kept per model (default: {PREFIX_MB:.0f})",
    )
    group.add_argument(
        "--preparation",
        choices=("model", "vllm"),
        default="vllm",
        help="how /score and /rerank prepare and compare two texts",
    )
    flag(group, "--enable-lora", help="serve LoRA adapters, each merged into a model of its own")
    group.add_argument(
        "--lora-modules",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="adapters, or artifacts exported with one",
    )
    group.add_argument(
        "--max-loras", type=positive, help="adapters that may be loaded at once (default: no limit)"
    )
    group.add_argument("--max-cpu-loras", type=positive, help="the same; the larger of both counts")
    group.add_argument(
        "--max-lora-rank", type=positive, help="refuse adapters of a larger rank (default: no limit)"
    )
    group.add_argument(
        "--io-processor-plugin",
        nargs="+",
        default=[],
        help="plugin of the first artifact for /pooling with `data`, or NAME=ARTIFACT",
    )
    group.add_argument(
        "--check",
        choices=("full", "once", "quick"),
        default="once",
        help="compare sha256 of every file, of those that changed since they were compared last on this "
        "machine (default), or only sizes",
    )


def _add_export(parser: Parser) -> None:
    group = parser.add_argument_group("exporting a checkpoint first (vLLM's spellings)")
    for name in ("--runner", "--convert", "--revision", "--subfolder", "--precision", "--target"):
        group.add_argument(name)
    group.add_argument("--task", choices=CONVERSIONS, default="auto", help="older word for --convert")
    for name in ("--tokenizer", "--tokenizer-revision", "--quantization"):
        group.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--hf-overrides", "--pooler-config"):
        group.add_argument(name, type=json_object, action="append", default=[], metavar="JSON")
    group.add_argument(
        "--cache", type=Path, help="where exported artifacts are kept (default: ~/.cache/poolrt/artifacts)"
    )


def _add_server(parser: Parser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    group.add_argument("--port", type=int, default=8000)
    group.add_argument("--uds", help="a unix socket instead of host and port")
    group.add_argument(
        "--api-key",
        nargs="+",
        default=[],
        help="keys, one of which every request must carry (or POOLRT_API_KEY, VLLM_API_KEY)",
    )
    group.add_argument(
        "--insecure-no-auth",
        action="store_true",
        help="allow other machines to reach a server without a key",
    )
    group.add_argument(
        "--timeout-keep-alive",
        type=positive,
        metavar="S",
        help="seconds a connection may idle between requests (default: 75, or VLLM_HTTP_TIMEOUT_KEEP_ALIVE)",
    )
    group.add_argument("--root-path", default="", help="path prefix of a proxy in front")
    group.add_argument(
        "--forwarded-allow-ips",
        default="",
        metavar="IPS",
        help="proxies whose X-Forwarded-For and -Proto are believed: comma-separated addresses or networks, "
        "* for all (default: none)",
    )
    group.add_argument("--allowed-origins", type=json_list, default=["*"], metavar="JSON")
    group.add_argument("--allowed-methods", type=json_list, default=["*"], metavar="JSON")
    group.add_argument("--allowed-headers", type=json_list, default=["*"], metavar="JSON")
    flag(group, "--allow-credentials")
    group.add_argument("--ssl-keyfile")
    group.add_argument("--ssl-certfile")
    group.add_argument("--ssl-ca-certs")
    group.add_argument("--ssl-cert-reqs", type=int, default=0)
    group.add_argument("--ssl-ciphers", default=TLS_CIPHERS)
    group.add_argument(
        "--middleware",
        action="append",
        default=[],
        metavar="MODULE.NAME",
        help="an ASGI class or async function around everything",
    )
    flag(group, "--enable-ssl-refresh", help="read changed certificate files while the server runs")
    flag(group, "--enable-request-id-headers")
    flag(group, "--disable-fastapi-docs", help="no /docs, /redoc, /openapi.json")
    flag(group, "--enable-server-load-tracking")
    flag(group, "--enable-tokenizer-info-endpoint")
    flag(group, "--disable-log-stats", help="no engine metrics in /metrics")
    flag(group, "--disable-timing-headers")
    group.add_argument(
        "--uvicorn-log-level",
        default="info",
        choices=("debug", "info", "warning", "error", "critical", "trace"),
    )
    flag(group, "--disable-uvicorn-access-log")
    group.add_argument(
        "--disable-access-log-for-endpoints",
        default="",
        metavar="PATHS",
        help="comma-separated, e.g. /health,/metrics",
    )
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="json: each line is an object, and each request has one with its id, model, route, status, "
        "duration and tokens (default: text; json with --json)",
    )
    group.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="where OpenTelemetry traces of requests are sent, http://HOST:4318 or grpc://HOST:4317 "
        "(default: none, or that of OTEL_EXPORTER_OTLP_ENDPOINT); needs poolrt[otel]",
    )
    group.add_argument(
        "--log-config-file",
        type=Path,
        metavar="FILE",
        help="JSON for logging.config.dictConfig, instead of these levels",
    )
    flag(
        group,
        "--enable-log-requests",
        help="log the prompts of each request: what users send is then in the log",
    )
    group.add_argument(
        "--max-log-len",
        type=natural,
        metavar="N",
        help="characters or token ids of a prompt that are logged",
    )


def _add_templates(parser: Parser) -> None:
    group = parser.add_argument_group("templates")
    group.add_argument("--chat-template", help="file, or Jinja text; for cross-encoders the score template")
    group.add_argument("--chat-template-content-format", choices=("auto", "string", "openai"), default="auto")
    flag(group, "--trust-request-chat-template")
    group.add_argument(
        "--default-chat-template-kwargs", type=json_object, action="append", default=[], metavar="JSON"
    )


def _add_media(parser: Parser) -> None:
    group = parser.add_argument_group("pictures and videos")
    group.add_argument(
        "--allowed-media-domains",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts (HOST, HOST:PORT, or * for all) whose pictures requests may name by URL; only public "
        "addresses are fetched from (default: none)",
    )
    group.add_argument(
        "--allowed-local-media-path",
        default="",
        metavar="FOLDER",
        help="folder below which requests may name files by file: URLs (default: none)",
    )
    group.add_argument(
        "--limit-mm-per-prompt",
        type=json_object,
        action="append",
        default=[],
        metavar="JSON",
        help='most items of one prompt: {"image": 4, "video": 1} (default: as the model)',
    )
    group.add_argument(
        "--mm-processor-kwargs",
        type=json_object,
        action="append",
        default=[],
        metavar="JSON",
        help='settings of the image processor: {"max_pixels": 1310720}',
    )
    group.add_argument(
        "--media-io-kwargs",
        type=json_object,
        action="append",
        default=[],
        metavar="JSON",
        help='settings of reading them: {"video": {"num_frames": 40}}',
    )
    flag(
        group,
        "--trust-request-mm-kwargs",
        help="let requests bring mm_processor_kwargs and media_io_kwargs of their own",
    )
    flag(
        group,
        "--enable-mm-embeds",
        help="let requests send vectors of pictures (image_embeds) in place of pictures",
    )
    group.add_argument(
        "--mm-processor-cache-gb",
        type=float,
        default=Media().cache_bytes / 1024**3,
        metavar="GIB",
        help="features of pictures kept for later requests; 0: none",
    )
    flag(
        group,
        "--interleave-mm-strings",
        help="with templates of text, pictures stand where they are sent, not in front",
    )
    group.add_argument(
        "--max-media-bytes",
        type=positive,
        default=Media().max_bytes,
        help="of all pictures and videos of one request; beyond it 422",
    )


def _add_limits(parser: Parser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-queued-tokens",
        type=positive,
        default=2_000_000,
        help="beyond it requests are refused with 429",
    )
    group.add_argument(
        "--scheduling-policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help="priority: lower `priority` of a request first",
    )
    group.add_argument(
        "--max-body-bytes",
        type=positive,
        default=32 * 1024 * 1024,
        help="beyond it requests are refused with 413",
    )
    group.add_argument(
        "--body-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="time a client may take to send its headers, and its body",
    )
    group.add_argument(
        "--write-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="a client that takes nothing of its answer for so long is cut off",
    )
    group.add_argument(
        "--max-connections",
        type=positive,
        default=4096,
        help="the longest idle ones make room for new ones",
    )
    group.add_argument(
        "--max-items",
        type=positive,
        default=32768,
        help="texts, documents or messages in one request; beyond it 400",
    )
    group.add_argument(
        "--max-pending-bytes",
        type=positive,
        default=512 * 1024 * 1024,
        help="of all requests' bodies together; beyond it 429",
    )
    group.add_argument(
        "--request-timeout", type=float, metavar="S", help="time a request may take in all, then 504"
    )
    group.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="time for running requests after SIGTERM",
    )
    group.add_argument(
        "--h11-max-incomplete-event-size",
        type=positive,
        default=64 * 1024,
        help="bytes of a request's header block",
    )
    group.add_argument(
        "--h11-max-header-count", type=positive, default=256, help="headers of a request; beyond it 431"
    )
    group.add_argument("--server-threads", type=positive, default=8, help="threads that prepare texts")
    flag(
        group,
        "--allow-foreign-token-ids",
        help="do not refuse token ids that OpenAI client libraries made with another tokenizer",
    )


def flag(group: argparse._ArgumentGroup, name: str, **keywords: Any) -> None:
    """A boolean flag with its `--no-` form."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=False, **keywords)


def json_object(text: str) -> dict[str, Any]:
    """Raises argparse.ArgumentTypeError for what is no JSON object."""
    return _json(text, dict, "an object")


def json_list(text: str) -> list[str]:
    """Raises argparse.ArgumentTypeError for what is no JSON list."""
    return _json(text, list, "a list")


def _json(text: str, kind: type, name: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise argparse.ArgumentTypeError(f"expected {name} in JSON, found {text[:60]!r}")
    return value
