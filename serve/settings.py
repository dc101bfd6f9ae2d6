"""What an operator can set, as one record; `cli.py` fills it from flags, the environment and a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

TLS_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers of TLS 1.2; TLS 1.3 has its own. uvicorn's default (`TLSv1`) allows CBC with SHA-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    keyfile: str
    certfile: str
    ca_certs: str | None = None
    cert_reqs: int = 0
    ciphers: str = TLS_CIPHERS
    refresh: bool = False
    """Read changed files while the server runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    origins: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Where pictures and videos of requests may come from, and how many they may be."""

    domains: tuple[str, ...] = ()
    """Hosts that URLs with http and https may name (`host`, `host:port`, `*` for all); empty: none is
    fetched. Only public addresses are ever fetched from."""
    folder: Path | None = None
    """file: URLs are read below it; None: not at all."""
    redirects: bool = True
    image_timeout_s: float = 5.0
    video_timeout_s: float = 30.0
    max_bytes: int = 256 * 1024 * 1024
    """Encoded bytes of all pictures and videos of one request."""
    max_pixels: int = 240_000_000
    """Decoded pixels of all pictures and videos of one request; vLLM 0.33 admits 715 827 880 bytes, of which
    a pixel has three."""
    max_prepared_bytes: int = 1024**3
    """Of the prepared pictures that one request holds at a time; all requests together may hold twice as
    many."""
    limits: dict[str, int] = field(default_factory=dict)
    """Modality (image, video) -> most items of one prompt; missing: as many as the model takes."""
    processor_kwargs: dict[str, object] = field(default_factory=dict)
    """Settings of the model's image processor, in place of the artifact's."""
    io_kwargs: dict[str, dict[str, object]] = field(default_factory=dict)
    """Modality -> settings of reading it (`num_frames`, `fps`, `rgba_background_color`)."""
    trust_request_kwargs: bool = False
    """Requests may bring such settings of their own."""
    embeds: bool = False
    """Clients may send vectors of pictures in place of pictures."""
    cache_bytes: int = 256 * 1024**2
    """Computed features of pictures that are kept for later requests."""
    interleave: bool = False
    """Where a template reads text only, placeholders stand where the pictures do instead of in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    api_keys: tuple[str, ...] = ()
    root_path: str = ""
    forwarded_allow_ips: str = ""
    """Addresses of proxies whose word about a client's address and scheme is believed; empty: of none."""
    cors: Cors = field(default_factory=Cors)
    tls: Tls | None = None
    middleware: tuple[Any, ...] = ()
    """ASGI classes and async functions around the application, the last outermost."""
    # Routes and headers
    docs: bool = True
    tokenizer_info: bool = False
    track_load: bool = False
    engine_metrics: bool = True
    request_id_headers: bool = False
    timing_headers: bool = True
    check_model_name: bool = True
    """False: the first model answers whatever `model` a request names."""
    runtime_lora: bool = False
    """Requests may load and unload adapters, from folders of the server's disk."""
    check_foreign_tokens: bool = True
    """Refuse token ids that an OpenAI client library made with another model's tokenizer."""
    # Templates
    chat_template: str | None = None
    """Jinja text; for cross-encoders the score template."""
    content_format: Literal["auto", "string", "openai"] = "auto"
    trust_request_chat_template: bool = False
    score_preparation: Literal["model", "vllm"] = "vllm"
    """`model`: the two sides of a score are prepared and compared as the model's own library does it; `vllm`:
    as vLLM does."""
    default_template_kwargs: dict[str, object] = field(default_factory=dict)
    # Pictures and videos
    media: Media = field(default_factory=Media)
    # Limits
    max_body_bytes: int = 32 * 1024 * 1024
    body_timeout_s: float = 60.0
    """Time a client may take to send its headers, and again to send its body."""
    request_timeout_s: float | None = None
    """Time a request may take in all; None: no limit."""
    write_timeout_s: float = 30.0
    """The connection of a client that reads nothing of its answer for so long is ended."""
    shutdown_timeout_s: float = 30.0
    """Time that running requests get after the first SIGTERM."""
    keep_alive_s: int = 75
    """Idle time of a connection. Proxies (nginx, AWS) keep theirs for 60 s; a shorter time here would close
    one while a proxy sends a request."""
    max_header_bytes: int = 64 * 1024
    max_header_count: int = 256
    max_connections: int = 4096
    """Lowered where the process may not have as many files open."""
    max_items: int = 32768
    """Texts, documents, pairs or messages in one list of a request."""
    max_pending_bytes: int = 512 * 1024 * 1024
    """Bytes of the bodies of all running requests, and of the values parsed from them."""
    max_queued_tokens: int | None = 2_000_000
    """Tokens that may wait per model; beyond it a request is refused with 429. None: no limit."""
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    """`priority`: a lower `priority` of a request is sooner. `fcfs`: one other than 0 is refused."""
    threads: int = 8
    """Threads that tokenise texts and shape responses."""
    # Logs
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    """`json`: a JSON object a line, and of each request its id, model, route, status, duration and tokens."""
    access_log: bool = True
    log_requests: bool = False
    """Log the prompts of each request."""
    max_log_length: int | None = None
    """Characters or token ids of a prompt that are logged; None: all of them."""
    # Traces
    traces: bool = False
    """Requests are traced by OpenTelemetry."""
    traces_endpoint: str | None = None
    """Address of the collector; None: that of the OTEL_* variables."""
