"""What an operator can set, as one record, and the flag of each setting.

A field's annotation declares its flag; `poolrt serve --help`, the environment, `--config` files and the
defaults are all made of it. The help of the flags takes this file above 300 lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..runtime.artifact.manifest import FILE
from ..runtime.command_line.flags import Flag
from ..runtime.command_line.values import fraction, json_list

TLS_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers of TLS 1.2; TLS 1.3 has its own. uvicorn's default (`TLSv1`) allows CBC with SHA-1."""
MODALITIES = ("image", "video", "audio")
LEVELS = ("debug", "info", "warning", "error", "critical", "trace")

SERVER, HTTP, LOGS, TEMPLATES = "server", "HTTP", "logs and metrics", "templates"
PICTURES, LIMITS = "pictures and videos", "limits"


def filled(values: Sequence[str]) -> list[str]:
    """The values without empty ones."""
    return [value for value in values if value]


def template_of(template: str) -> str:
    """Jinja text: of the file at that path, of poolrt's own template at that path, or the text itself."""
    from ..runtime.inputs import templates  # jinja2, which --help does without

    return templates.named(template, "--chat-template")


def folder_of(text: str) -> Path | None:
    """The folder, links followed; None for an empty text. Raises ValueError for no folder."""
    if not text:
        return None
    folder = Path(text).resolve()
    if not folder.is_dir():
        raise ValueError(f"{text}: no such folder")
    return folder


def watched_folder(text: str) -> Path | None:
    """A folder of artifacts, links followed; None for an empty text. Raises ValueError for another."""
    folder = folder_of(text)
    if folder is not None and (folder / FILE).is_file():
        raise ValueError(f"{text}: an artifact; expected the folder that holds it")
    return folder


def limits_of(value: Mapping[str, Any]) -> dict[str, int]:
    """Modality -> most items, each a number or vLLM's object with a `count`. Raises ValueError."""
    limits: dict[str, int] = {}
    for modality, limit in value.items():
        count = limit.get("count", 999) if isinstance(limit, dict) else limit
        if modality not in MODALITIES or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(
                f"{modality}: {limit!r} is no limit; expected one of {', '.join(MODALITIES)} and a whole "
                "number from 0 up"
            )
        limits[modality] = count
    return limits


def bytes_of_gibibytes(text: str) -> int:
    """Raises ValueError for a negative number."""
    if not 0 <= (gibibytes := fraction(text)) < math.inf:
        raise ValueError(f"expected a number from 0 up, found {text[:60]!r}")
    return int(gibibytes * 1024**3)


def level_of(text: str) -> str:
    """A level of logs; uvicorn's `trace` is `debug`. Raises ValueError."""
    if text not in LEVELS:
        raise ValueError(f"invalid choice: {text[:60]!r} (choose from {', '.join(LEVELS)})")
    return "debug" if text == "trace" else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    keyfile: Annotated[str, Flag("private key of the server", SERVER, "FILE", "ssl-keyfile")]
    certfile: Annotated[
        str, Flag("certificate of the server, with its chain", SERVER, "FILE", "ssl-certfile")
    ]
    ca_certs: Annotated[
        str | None, Flag("authorities of clients' certificates", SERVER, "FILE", "ssl-ca-certs")
    ] = None
    cert_reqs: Annotated[
        int, Flag("client certificates: 0 none, 1 may be sent, 2 required", SERVER, name="ssl-cert-reqs")
    ] = 0
    ciphers: Annotated[str, Flag("of TLS 1.2", SERVER, name="ssl-ciphers")] = TLS_CIPHERS
    refresh: Annotated[
        bool,
        Flag("read changed certificate files while the server runs", SERVER, name="enable-ssl-refresh"),
    ] = False
    """Read changed files while the server runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    origins: Annotated[
        tuple[str, ...],
        Flag("origins whose pages may call this server", HTTP, "JSON", "allowed-origins", read=json_list),
    ] = ("*",)
    methods: Annotated[
        tuple[str, ...], Flag("for such pages", HTTP, "JSON", "allowed-methods", read=json_list)
    ] = ("*",)
    headers: Annotated[
        tuple[str, ...], Flag("for such pages", HTTP, "JSON", "allowed-headers", read=json_list)
    ] = ("*",)
    credentials: Annotated[
        bool, Flag("such pages may send cookies and keys of the browser", HTTP, name="allow-credentials")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Where pictures and videos of requests may come from, and how many they may be."""

    domains: Annotated[
        tuple[str, ...],
        Flag(
            "hosts (HOST, HOST:PORT, or * for all) whose pictures requests may name by URL; only public "
            "addresses are fetched from",
            PICTURES,
            "HOST",
            "allowed-media-domains",
            words=True,
            default="none",
        ),
    ] = ()
    """Hosts that URLs with http and https may name (`host`, `host:port`, `*` for all); empty: none is
    fetched. Only public addresses are ever fetched from."""
    folder: Annotated[
        Path | None,
        Flag(
            "folder below which requests may name files by file: URLs",
            PICTURES,
            "FOLDER",
            "allowed-local-media-path",
            read=folder_of,
            default="none",
        ),
    ] = None
    """file: URLs are read below it; None: not at all."""
    redirects: Annotated[
        bool,
        Flag(
            "fetch from where another address redirects to",
            PICTURES,
            name="media-url-allow-redirects",
            variables=("VLLM_MEDIA_URL_ALLOW_REDIRECTS",),
        ),
    ] = True
    image_timeout_s: Annotated[
        float,
        Flag(
            "seconds for fetching a picture",
            PICTURES,
            "S",
            "image-fetch-timeout",
            above=0,
            variables=("VLLM_IMAGE_FETCH_TIMEOUT",),
        ),
    ] = 5.0
    video_timeout_s: Annotated[
        float,
        Flag(
            "seconds for fetching a video",
            PICTURES,
            "S",
            "video-fetch-timeout",
            above=0,
            variables=("VLLM_VIDEO_FETCH_TIMEOUT",),
        ),
    ] = 30.0
    max_bytes: Annotated[
        int,
        Flag(
            "of all pictures and videos of one request; beyond it 422",
            PICTURES,
            name="max-media-bytes",
            at_least=1,
        ),
    ] = 256 * 1024 * 1024
    """Encoded bytes of all pictures and videos of one request."""
    max_pixels: int = 240_000_000
    """Decoded pixels of all pictures and videos of one request; vLLM 0.33 admits 715 827 880 bytes, of which
    a pixel has three."""
    max_prepared_bytes: int = 1024**3
    """Of the prepared pictures that one request holds at a time; all requests together may hold twice as
    many."""
    limits: Annotated[
        dict[str, int],
        Flag(
            'most items of one prompt: {"image": 4, "video": 1}',
            PICTURES,
            name="limit-mm-per-prompt",
            finish=limits_of,
            default="as the model",
        ),
    ] = field(default_factory=dict)
    """Modality (image, video) -> most items of one prompt; missing: as many as the model takes."""
    processor_kwargs: Annotated[
        dict[str, object],
        Flag(
            'settings of the image processor: {"max_pixels": 1310720}', PICTURES, name="mm-processor-kwargs"
        ),
    ] = field(default_factory=dict)
    """Settings of the model's image processor, in place of the artifact's."""
    io_kwargs: Annotated[
        dict[str, dict[str, object]],
        Flag('settings of reading them: {"video": {"num_frames": 40}}', PICTURES, name="media-io-kwargs"),
    ] = field(default_factory=dict)
    """Modality -> settings of reading it (`num_frames`, `fps`, `rgba_background_color`)."""
    trust_request_kwargs: Annotated[
        bool,
        Flag(
            "let requests bring mm_processor_kwargs and media_io_kwargs of their own",
            PICTURES,
            name="trust-request-mm-kwargs",
        ),
    ] = False
    """Requests may bring such settings of their own."""
    embeds: Annotated[
        bool,
        Flag(
            "let requests send vectors of pictures (image_embeds) in place of pictures",
            PICTURES,
            name="enable-mm-embeds",
        ),
    ] = False
    """Clients may send vectors of pictures in place of pictures."""
    cache_bytes: Annotated[
        int,
        Flag(
            "features of pictures kept for later requests; 0: none",
            PICTURES,
            "GIB",
            "mm-processor-cache-gb",
            read=bytes_of_gibibytes,
            default="0.25",
        ),
    ] = 256 * 1024**2
    """Computed features of pictures that are kept for later requests."""
    interleave: Annotated[
        bool,
        Flag(
            "with templates of text, pictures stand where they are sent, not in front",
            PICTURES,
            name="interleave-mm-strings",
        ),
    ] = False
    """Where a template reads text only, placeholders stand where the pictures do instead of in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    host: Annotated[str, Flag("address to listen at; the default admits this machine only", SERVER)] = (
        "127.0.0.1"
    )
    port: Annotated[int, Flag("0: any that is free", SERVER, at_least=0, at_most=65535)] = 8000
    uds: Annotated[str | None, Flag("a unix socket instead of host and port", SERVER, "PATH")] = None
    api_keys: Annotated[
        tuple[str, ...],
        Flag(
            "keys, one of which every request must carry",
            SERVER,
            "KEY",
            "api-key",
            words=True,
            variables=("VLLM_API_KEY",),
        ),
    ] = ()
    root_path: Annotated[str, Flag("path prefix of a proxy in front", SERVER)] = ""
    forwarded_allow_ips: Annotated[
        str,
        Flag(
            "proxies whose X-Forwarded-For and -Proto are believed: comma-separated addresses or networks, "
            "* for all",
            SERVER,
            "IPS",
            default="none",
        ),
    ] = ""
    """Addresses of proxies whose word about a client's address and scheme is believed; empty: of none."""
    cors: Cors = field(default_factory=Cors)
    tls: Tls | None = None
    middleware: Annotated[
        tuple[Any, ...],
        Flag(
            "an ASGI class or async function around everything; repeat for several",
            HTTP,
            "MODULE.NAME",
            read=str,
        ),
    ] = ()
    """ASGI classes and async functions around the application, the last outermost."""
    # Routes and headers
    docs: Annotated[
        bool, Flag("no /docs, /redoc, /openapi.json", HTTP, name="disable-fastapi-docs", off=True)
    ] = True
    tokenizer_info: Annotated[
        bool,
        Flag("open the route /tokenizer_info", HTTP, name="enable-tokenizer-info-endpoint"),
    ] = False
    track_load: Annotated[
        bool, Flag("count running requests at /load", HTTP, name="enable-server-load-tracking")
    ] = False
    engine_metrics: Annotated[
        bool, Flag("no engine metrics in /metrics", LOGS, name="disable-log-stats", off=True)
    ] = True
    request_id_headers: Annotated[
        bool, Flag("send X-Request-Id with every response", HTTP, name="enable-request-id-headers")
    ] = False
    timing_headers: Annotated[
        bool, Flag("no headers with times of the work", HTTP, name="disable-timing-headers", off=True)
    ] = True
    check_model_name: Annotated[
        bool,
        Flag(
            "the first model answers whatever `model` a request names",
            HTTP,
            name="skip-model-name-validation",
            off=True,
            variables=("VLLM_SKIP_MODEL_NAME_VALIDATION",),
        ),
    ] = True
    """False: the first model answers whatever `model` a request names."""
    runtime_lora: Annotated[
        bool,
        Flag(
            "requests may load and unload LoRA adapters, from folders of this machine",
            HTTP,
            name="allow-runtime-lora-updating",
            variables=("VLLM_ALLOW_RUNTIME_LORA_UPDATING",),
        ),
    ] = False
    """Requests may load and unload adapters, from folders of the server's disk."""
    batch_folder: Annotated[
        Path | None,
        Flag(
            "open /v1/files and /v1/batches, whose files are kept there; every client sees all of them",
            HTTP,
            "FOLDER",
        ),
    ] = None
    """Batch files are kept there; None: there are none."""
    max_batch_bytes: Annotated[
        int, Flag("bytes of all batch files together", LIMITS, "BYTES", at_least=1)
    ] = 4 * 1024**3
    artifact_loading: Annotated[
        bool,
        Flag(
            "requests may load, replace and unload artifacts (POST /v1/artifacts/load, /v1/artifacts/unload)",
            HTTP,
            name="allow-artifact-loading",
        ),
    ] = False
    """Requests may load, replace and unload artifacts, from folders of the server's disk and its store."""
    watch_folder: Annotated[
        Path | None,
        Flag(
            "serve every artifact in this folder, and follow it: new ones are loaded, changed ones replaced "
            "without losing a request, removed ones unloaded",
            SERVER,
            "FOLDER",
            read=watched_folder,
            default="none",
        ),
    ] = None
    """Artifacts in it are served, replaced and unloaded as they come, change and go."""
    check_foreign_tokens: Annotated[
        bool,
        Flag(
            "do not refuse token ids that OpenAI client libraries made with another tokenizer",
            LIMITS,
            name="allow-foreign-token-ids",
            off=True,
        ),
    ] = True
    """Refuse token ids that an OpenAI client library made with another model's tokenizer."""
    # Templates
    chat_template: Annotated[
        str | None,
        Flag(
            "file, or Jinja text; for cross-encoders the score template",
            TEMPLATES,
            read=template_of,
        ),
    ] = None
    """Jinja text; for cross-encoders the score template."""
    content_format: Annotated[
        Literal["auto", "string", "openai"],
        Flag("how a template reads contents", TEMPLATES, name="chat-template-content-format"),
    ] = "auto"
    trust_request_chat_template: Annotated[
        bool, Flag("let requests bring templates of their own", TEMPLATES)
    ] = False
    score_preparation: Annotated[
        Literal["model", "vllm"],
        Flag("how /score and /rerank prepare and compare two texts", TEMPLATES, name="preparation"),
    ] = "vllm"
    """`model`: the two sides of a score are prepared and compared as the model's own library does it; `vllm`:
    as vLLM does."""
    default_template_kwargs: Annotated[
        dict[str, object],
        Flag("values of a template's variables", TEMPLATES, name="default-chat-template-kwargs"),
    ] = field(default_factory=dict)
    # Pictures and videos
    media: Media = field(default_factory=Media)
    # Limits
    max_body_bytes: Annotated[
        int, Flag("beyond it requests are refused with 413", LIMITS, "BYTES", at_least=1)
    ] = 32 * 1024 * 1024
    body_timeout_s: Annotated[
        float,
        Flag("seconds a client may take to send its headers, and its body", LIMITS, "S", "body-timeout"),
    ] = 60.0
    """Time a client may take to send its headers, and again to send its body."""
    request_timeout_s: Annotated[
        float | None, Flag("seconds a request may take in all, then 504", LIMITS, "S", "request-timeout")
    ] = None
    """Time a request may take in all; None: no limit."""
    write_timeout_s: Annotated[
        float,
        Flag(
            "a client that takes nothing of its answer for so many seconds is cut off",
            LIMITS,
            "S",
            "write-timeout",
        ),
    ] = 30.0
    """The connection of a client that reads nothing of its answer for so long is ended."""
    shutdown_timeout_s: Annotated[
        float, Flag("seconds for running requests after SIGTERM", LIMITS, "S", "shutdown-timeout")
    ] = 30.0
    """Time that running requests get after the first SIGTERM."""
    keep_alive_s: Annotated[
        int,
        Flag(
            "seconds a connection may idle between requests",
            LIMITS,
            "S",
            "timeout-keep-alive",
            at_least=1,
            variables=("VLLM_HTTP_TIMEOUT_KEEP_ALIVE",),
        ),
    ] = 75
    """Idle time of a connection. Proxies (nginx, AWS) keep theirs for 60 s; a shorter time here would close
    one while a proxy sends a request."""
    max_header_bytes: Annotated[
        int,
        Flag("of a request's header block", LIMITS, "BYTES", "h11-max-incomplete-event-size", at_least=1),
    ] = 64 * 1024
    max_header_count: Annotated[
        int, Flag("headers of a request; beyond it 431", LIMITS, "N", "h11-max-header-count", at_least=1)
    ] = 256
    max_connections: Annotated[
        int, Flag("the longest idle ones make room for new ones", LIMITS, "N", at_least=1)
    ] = 4096
    """Lowered where the process may not have as many files open."""
    max_items: Annotated[
        int, Flag("texts, documents or messages in one request; beyond it 400", LIMITS, "N", at_least=1)
    ] = 32768
    """Texts, documents, pairs or messages in one list of a request."""
    max_pending_bytes: Annotated[
        int, Flag("of all requests' bodies together; beyond it 429", LIMITS, "BYTES", at_least=1)
    ] = 512 * 1024 * 1024
    """Bytes of the bodies of all running requests, and of the values parsed from them."""
    max_queued_tokens: Annotated[
        int | None,
        Flag("tokens that wait per model; beyond it requests are refused with 429", LIMITS, "N", at_least=1),
    ] = 2_000_000
    """Tokens that may wait per model; beyond it a request is refused with 429. None: no limit."""
    scheduling_policy: Annotated[
        Literal["fcfs", "priority"], Flag("priority: lower `priority` of a request first", LIMITS)
    ] = "fcfs"
    """`priority`: a lower `priority` of a request is sooner. `fcfs`: one other than 0 is refused."""
    threads: Annotated[int, Flag("threads that prepare texts", LIMITS, "N", "server-threads", at_least=1)] = 8
    """Threads that tokenise texts and shape responses."""
    processes: int = 1
    """Processes that serve the same port, each with models of its own. Limits hold for each of them."""
    # Logs
    log_level: Annotated[
        str,
        Flag(
            "",
            LOGS,
            "|".join(LEVELS),
            "uvicorn-log-level",
            aliases=("log-level",),
            read=level_of,
            variables=("POOLRT_LOG_LEVEL",),
        ),
    ] = "info"
    log_format: Literal["text", "json"] = "text"
    """`json`: a JSON object a line, and of each request its id, model, route, status, duration and tokens."""
    access_log: Annotated[
        bool, Flag("no line for each request", LOGS, name="disable-uvicorn-access-log", off=True)
    ] = True
    log_requests: Annotated[
        bool,
        Flag(
            "log the prompts of each request: what users send is then in the log",
            LOGS,
            name="enable-log-requests",
        ),
    ] = False
    """Log the prompts of each request."""
    max_log_length: Annotated[
        int | None,
        Flag("characters or token ids of a prompt that are logged", LOGS, "N", "max-log-len", at_least=0),
    ] = None
    """Characters or token ids of a prompt that are logged; None: all of them."""
    # Traces
    traces: bool = False
    """Requests are traced by OpenTelemetry."""
    traces_endpoint: Annotated[
        str | None,
        Flag(
            "where OpenTelemetry traces of requests are sent, http://HOST:4318 or grpc://HOST:4317; needs "
            "poolrt[otel]",
            LOGS,
            "URL",
            "otlp-traces-endpoint",
            default="none, or that of OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ] = None
    """Address of the collector; None: that of the OTEL_* variables."""
