"""`poolrt serve ARTIFACT...`: flags to settings, artifacts to models, then the server.

An argument that is no artifact but a checkpoint (a folder, or a hub id) is exported first, in a process of
its own, into a cache: so a command line of `vllm serve` ports by changing the program's name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import extras
from ..runtime.artifact.checkpoints import CONVERSIONS
from ..runtime.commands.command_line import Parser, length_or_auto, natural, positive
from ..runtime.errors import EXIT_INPUT, EXIT_INTERRUPTED, InputError, PoolrtError
from ..runtime.json_objects import gathered
from .flags import END_OF_VALUES, IGNORED, normalised
from .json_logs import json_error
from .logs import configure
from .process.positionals import give_back
from .settings import TLS_CIPHERS, Cors, Settings, Tls

LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("poolrt.serve")


def serve(arguments: Sequence[str]) -> int:
    """The command; answers the exit code."""
    as_json = "--json" in arguments
    try:
        asked, notes = parse(arguments)
        extras.require("serve")
        settings = settings_of(asked)
        configure(
            settings,
            file=asked.log_config_file,
            quiet=asked.disable_access_log_for_endpoints,
            as_json=as_json,
        )
        for note in notes:
            log.info("%s", note)
        check_exposure(settings, insecure=asked.insecure_no_auth)
        if settings.runtime_lora and not settings.api_keys:
            log.warning(
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING without a key: whoever reaches this server may have "
                "it read folders of this machine"
            )
        # Imported here: `poolrt serve --help` needs no server, and a refused flag is told at once.
        from .process.listening import listening
        from .process.server import run
        from .process.startup import models_of

        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(sock) for sock in listening(settings)]
            models = models_of(asked, settings)
            return run(models.registry, settings, adapters=models.adapters, sockets=sockets, as_json=as_json)
    except PoolrtError as error:
        print(f"poolrt serve: {error}", file=sys.stderr)
        if as_json:
            print(json_error(error, error.exit_code), flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as error:  # argparse after --help
        return error.code if isinstance(error.code, int) else EXIT_INPUT


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and a note for each that was accepted without effect."""
    parser, plain = parser_of(), normalised(arguments)
    asked = parser.parse_args(plain)
    give_back(asked, plain)
    notes = [
        f"--{name} has no effect here: an artifact fixes it, or poolrt does without"
        for name in IGNORED
        if getattr(asked, f"ignored_{name.replace('-', '_')}", None) is not None
    ]
    if not asked.artifacts:
        raise InputError(
            "no artifact given: poolrt serve ARTIFACT...; make one with `poolrt export CHECKPOINT`"
        )
    refuse_other_answers(asked)
    return asked, notes


def refuse_other_answers(asked: argparse.Namespace) -> None:
    """vLLM's flags that mean other numbers than a checkpoint's own, and would be ignored."""
    if asked.tokenizer not in (None, *asked.artifacts):
        raise InputError(
            f"--tokenizer {asked.tokenizer}: a checkpoint's own tokenizer is used; put that "
            "tokenizer's files into a copy of the checkpoint"
        )
    if asked.tokenizer_revision not in (None, asked.revision):
        raise InputError(
            f"--tokenizer-revision {asked.tokenizer_revision}: tokenizer and weights are those of "
            "one --revision"
        )
    if asked.quantization is not None:
        raise InputError(
            f"--quantization {asked.quantization}: give --precision int8, or leave it out for the "
            "checkpoint's own precision"
        )


def parser_of() -> Parser:
    parser = Parser(
        prog="poolrt serve", description="Serve artifacts behind vLLM's HTTP API.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--json",
        action="store_true",
        help=("log lines as JSON on stderr; one line on stdout when ready, with the URL, or with the error"),
    )
    add(f"--{END_OF_VALUES}", action="store_true", help=argparse.SUPPRESS)
    add(
        "artifacts",
        nargs="*",
        default=[],
        metavar="ARTIFACT",
        help="artifact folder; or a checkpoint folder or hub id, which is exported first",
    )

    model = parser.add_argument_group("models")
    model.add_argument(
        "--served-model-name",
        nargs="+",
        default=[],
        help=("names of the first artifact, or NAME=ARTIFACT for others"),
    )
    model.add_argument(
        "--engine",
        default="auto",
        help=("auto, onnxruntime, tensorrt-rtx, tensorrt, ... (default: what fits this machine)"),
    )
    model.add_argument(
        "--threads",
        type=positive,
        help=("threads of the engine on CPU (default: what affinity and cgroup grant)"),
    )
    model.add_argument(
        "--max-model-len",
        type=length_or_auto,
        help=("a lower limit of tokens per text than the model's own; 1k: 1000, 1K: 1024"),
    )
    model.add_argument(
        "--max-num-batched-tokens", type=positive, help="token slots per batch, padding included"
    )
    model.add_argument(
        "--preparation",
        choices=("model", "vllm"),
        default="vllm",
        help=("how /score and /rerank prepare and compare two texts"),
    )
    flag(model, "--enable-lora", help="serve LoRA adapters, each merged into a model of its own")
    model.add_argument(
        "--lora-modules",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="adapters, or artifacts exported with one",
    )
    model.add_argument(
        "--max-loras", type=positive, help=("adapters that may be loaded at once (default: no limit)")
    )
    model.add_argument("--max-cpu-loras", type=positive, help="the same; the larger of both counts")
    model.add_argument(
        "--max-lora-rank", type=positive, help=("refuse adapters of a larger rank (default: no limit)")
    )
    model.add_argument(
        "--io-processor-plugin",
        nargs="+",
        default=[],
        help=("plugin of the first artifact for /pooling with `data`, or NAME=ARTIFACT"),
    )
    model.add_argument(
        "--check",
        choices=("full", "quick"),
        default="full",
        help=("compare sha256 of every file, or only sizes"),
    )

    export = parser.add_argument_group("exporting a checkpoint first (vLLM's spellings)")
    for name in ("--runner", "--convert", "--revision", "--precision", "--target"):
        export.add_argument(name)
    export.add_argument("--task", choices=CONVERSIONS, default="auto", help="older word for --convert")
    for name in ("--tokenizer", "--tokenizer-revision", "--quantization"):
        export.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--hf-overrides", "--pooler-config"):
        export.add_argument(name, type=json_object, action="append", default=[], metavar="JSON")
    export.add_argument(
        "--cache", type=Path, help=("where exported artifacts are kept (default: ~/.cache/poolrt/artifacts)")
    )

    front = parser.add_argument_group("server")
    front.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    front.add_argument("--port", type=int, default=8000)
    front.add_argument("--uds", help="a unix socket instead of host and port")
    front.add_argument(
        "--api-key",
        nargs="+",
        default=[],
        help=("keys, one of which every request must carry (or POOLRT_API_KEY, VLLM_API_KEY)"),
    )
    front.add_argument(
        "--insecure-no-auth",
        action="store_true",
        help=("allow other machines to reach a server without a key"),
    )
    front.add_argument(
        "--timeout-keep-alive", type=positive, metavar="S",
        help="seconds a connection may idle between requests (default: 75, or VLLM_HTTP_TIMEOUT_KEEP_ALIVE)",
    )  # fmt: skip
    front.add_argument("--root-path", default="", help="path prefix of a proxy in front")
    front.add_argument(
        "--forwarded-allow-ips", default="", metavar="IPS",
        help="proxies whose X-Forwarded-For and -Proto are believed: comma-separated addresses or networks, "
        "* for all (default: none)",
    )  # fmt: skip
    front.add_argument("--allowed-origins", type=json_list, default=["*"], metavar="JSON")
    front.add_argument("--allowed-methods", type=json_list, default=["*"], metavar="JSON")
    front.add_argument("--allowed-headers", type=json_list, default=["*"], metavar="JSON")
    flag(front, "--allow-credentials")
    front.add_argument("--ssl-keyfile")
    front.add_argument("--ssl-certfile")
    front.add_argument("--ssl-ca-certs")
    front.add_argument("--ssl-cert-reqs", type=int, default=0)
    front.add_argument("--ssl-ciphers", default=TLS_CIPHERS)
    front.add_argument(
        "--middleware",
        action="append",
        default=[],
        metavar="MODULE.NAME",
        help=("an ASGI class or async function around everything"),
    )
    flag(front, "--enable-ssl-refresh", help="read changed certificate files while the server runs")
    flag(front, "--enable-request-id-headers")
    flag(front, "--disable-fastapi-docs", help="no /docs, /redoc, /openapi.json")
    flag(front, "--enable-server-load-tracking")
    flag(front, "--enable-tokenizer-info-endpoint")
    flag(front, "--disable-log-stats", help="no engine metrics in /metrics")
    flag(front, "--disable-timing-headers")
    front.add_argument(
        "--uvicorn-log-level",
        default="info",
        choices=("debug", "info", "warning", "error", "critical", "trace"),
    )
    flag(front, "--disable-uvicorn-access-log")
    front.add_argument(
        "--disable-access-log-for-endpoints",
        default="",
        metavar="PATHS",
        help="comma-separated, e.g. /health,/metrics",
    )
    front.add_argument(
        "--log-config-file",
        type=Path,
        metavar="FILE",
        help=("JSON for logging.config.dictConfig, instead of these levels"),
    )
    flag(
        front,
        "--enable-log-requests",
        help=("log the prompts of each request: what users send is then in the log"),
    )
    front.add_argument(
        "--max-log-len",
        type=natural,
        metavar="N",
        help=("characters or token ids of a prompt that are logged"),
    )

    templates = parser.add_argument_group("templates")
    templates.add_argument(
        "--chat-template", help=("file, or Jinja text; for cross-encoders the score template")
    )
    templates.add_argument(
        "--chat-template-content-format", choices=("auto", "string", "openai"), default="auto"
    )
    flag(templates, "--trust-request-chat-template")
    templates.add_argument(
        "--default-chat-template-kwargs", type=json_object, action="append", default=[], metavar="JSON"
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-queued-tokens",
        type=positive,
        default=2_000_000,
        help="beyond it requests are refused with 429",
    )
    limits.add_argument(
        "--scheduling-policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help=("priority: lower `priority` of a request first"),
    )
    limits.add_argument(
        "--max-body-bytes",
        type=positive,
        default=32 * 1024 * 1024,
        help="beyond it requests are refused with 413",
    )
    limits.add_argument(
        "--body-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help=("time a client may take to send its headers, and its body"),
    )
    limits.add_argument(
        "--write-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help=("a client that takes nothing of its answer for so long is cut off"),
    )
    limits.add_argument(
        "--max-connections",
        type=positive,
        default=4096,
        help=("the longest idle ones make room for new ones"),
    )
    limits.add_argument(
        "--max-items",
        type=positive,
        default=32768,
        help=("texts, documents or messages in one request; beyond it 400"),
    )
    limits.add_argument(
        "--max-pending-bytes",
        type=positive,
        default=512 * 1024 * 1024,
        help=("of all requests' bodies together; beyond it 429"),
    )
    limits.add_argument(
        "--request-timeout", type=float, metavar="S", help="time a request may take in all, then 504"
    )
    limits.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="time for running requests after SIGTERM",
    )
    limits.add_argument(
        "--h11-max-incomplete-event-size",
        type=positive,
        default=64 * 1024,
        help="bytes of a request's header block",
    )
    limits.add_argument(
        "--h11-max-header-count", type=positive, default=256, help="headers of a request; beyond it 431"
    )
    limits.add_argument("--server-threads", type=positive, default=8, help="threads that prepare texts")
    flag(
        limits,
        "--allow-foreign-token-ids",
        help=("do not refuse token ids that OpenAI client libraries made with another tokenizer"),
    )

    for name, count in IGNORED.items():
        target = f"ignored_{name.replace('-', '_')}"
        if count:
            parser.add_argument(f"--{name}", dest=target, nargs=1, help=argparse.SUPPRESS)
        else:
            parser.add_argument(
                f"--{name}", dest=target, action="store_const", const=True, help=argparse.SUPPRESS
            )
    return parser


def flag(group: argparse._ArgumentGroup, name: str, **more: Any) -> None:
    """A boolean flag with its `--no-` form."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=False, **more)


def settings_of(asked: argparse.Namespace) -> Settings:
    environment = os.environ
    keys = [key for key in asked.api_key if key]
    if not keys:
        keys = [key for name in ("POOLRT_API_KEY", "VLLM_API_KEY") if (key := environment.get(name))]
    if bool(asked.ssl_keyfile) != bool(asked.ssl_certfile):
        raise InputError("--ssl-keyfile and --ssl-certfile go together")
    if asked.enable_ssl_refresh and not asked.ssl_certfile:
        raise InputError(
            "--enable-ssl-refresh has no certificate to look at; give --ssl-keyfile and --ssl-certfile, or "
            "leave it out"
        )
    tls = None
    if asked.ssl_keyfile:
        tls = Tls(
            keyfile=asked.ssl_keyfile, certfile=asked.ssl_certfile, ca_certs=asked.ssl_ca_certs,
            cert_reqs=asked.ssl_cert_reqs,
            ciphers=asked.ssl_ciphers, refresh=asked.enable_ssl_refresh,
        )  # fmt: skip
    if not 0 <= asked.port <= 65535:
        raise InputError(f"--port {asked.port} is not a port, expected 0 to 65535")
    return Settings(
        host=asked.host,
        port=asked.port,
        uds=asked.uds,
        api_keys=tuple(keys),
        root_path=asked.root_path,
        forwarded_allow_ips=asked.forwarded_allow_ips,
        cors=Cors(
            origins=tuple(asked.allowed_origins),
            methods=tuple(asked.allowed_methods),
            headers=tuple(asked.allowed_headers),
            credentials=asked.allow_credentials,
        ),
        tls=tls,
        middleware=middleware_of(asked.middleware),
        docs=not asked.disable_fastapi_docs,
        tokenizer_info=asked.enable_tokenizer_info_endpoint,
        track_load=asked.enable_server_load_tracking,
        engine_metrics=not asked.disable_log_stats,
        request_id_headers=asked.enable_request_id_headers,
        timing_headers=not asked.disable_timing_headers,
        check_model_name=not truthy(environment.get("VLLM_SKIP_MODEL_NAME_VALIDATION", "")),
        runtime_lora=truthy(environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "")),
        check_foreign_tokens=not asked.allow_foreign_token_ids,
        chat_template=template_of(asked.chat_template),
        content_format=asked.chat_template_content_format,
        trust_request_chat_template=asked.trust_request_chat_template,
        default_template_kwargs=gathered(asked.default_chat_template_kwargs),
        score_preparation=asked.preparation,
        max_body_bytes=asked.max_body_bytes,
        body_timeout_s=asked.body_timeout,
        request_timeout_s=asked.request_timeout,
        write_timeout_s=asked.write_timeout,
        max_connections=asked.max_connections,
        max_items=asked.max_items,
        max_pending_bytes=asked.max_pending_bytes,
        shutdown_timeout_s=asked.shutdown_timeout,
        keep_alive_s=asked.timeout_keep_alive
        or keep_alive_of(environment.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE")),
        max_header_bytes=asked.h11_max_incomplete_event_size,
        max_header_count=asked.h11_max_header_count,
        max_queued_tokens=asked.max_queued_tokens,
        scheduling_policy=asked.scheduling_policy,
        threads=asked.server_threads,
        log_level="debug" if asked.uvicorn_log_level == "trace" else asked.uvicorn_log_level,
        access_log=not asked.disable_uvicorn_access_log,
        log_requests=asked.enable_log_requests,
        max_log_length=asked.max_log_len,
    )


def keep_alive_of(text: str | None) -> int:
    if text is None:
        return Settings().keep_alive_s
    if not text.strip().isdecimal():
        raise InputError(f"VLLM_HTTP_TIMEOUT_KEEP_ALIVE is {text[:60]!r}, expected whole seconds")
    return int(text)


def middleware_of(names: Sequence[str]) -> tuple[Any, ...]:
    if not names:
        return ()
    from .http.middleware import imported  # Starlette, which --help does without

    return tuple(imported(name) for name in names)


def check_exposure(settings: Settings, *, insecure: bool) -> None:
    """Raises InputError for a server that anyone in the network could use without a key."""
    if settings.uds is None and settings.host not in LOOPBACK and not settings.api_keys and not insecure:
        raise InputError(
            f"--host {settings.host} lets other machines in, and no key is set: give --api-key KEY (or "
            "POOLRT_API_KEY), "
            "or --insecure-no-auth to serve everyone"
        )


def template_of(given: str | None) -> str | None:
    """Jinja text from a file, or as it was given; the path of a template that comes with
    poolrt finds it from anywhere."""
    from ..runtime.inputs import templates  # jinja2, which --help does without

    return None if given is None else templates.named(given, "--chat-template")


def truthy(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")


def json_object(text: str) -> dict[str, Any]:
    return _json(text, dict, "an object")


def json_list(text: str) -> list[str]:
    return _json(text, list, "a list")


def _json(text: str, kind: type, name: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise argparse.ArgumentTypeError(f"expected {name} in JSON, found {text[:60]!r}")
    return value
