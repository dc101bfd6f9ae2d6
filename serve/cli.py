"""`poolrt serve ARTIFACT...`: makes settings of flags and models of artifacts, then runs the server.

A checkpoint (a folder, or a hub id) in place of an artifact is exported into a cache first, by another
process. So a command line of `vllm serve` ports by changing the program's name.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..runtime import extras
from ..runtime.errors import EXIT_INPUT, EXIT_INTERRUPTED, InputError, PoolrtError
from ..runtime.json_objects import gathered
from .flags import IGNORED, normalised
from .json_logs import json_error
from .logs import configure
from .process.arguments import parser_of
from .process.media_options import media_of
from .process.positionals import give_back
from .settings import Cors, Settings, Tls
from .tracing.provider import overlooked, traced

LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("poolrt.serve")


def serve(arguments: Sequence[str]) -> int:
    """The command. Returns its exit code."""
    as_json = "--json" in arguments
    log_format = None
    try:
        options, notes = parse(arguments)
        extras.require("serve")
        settings = settings_of(options)
        configure(
            settings,
            file=options.log_config_file,
            quiet=options.disable_access_log_for_endpoints,
        )
        log_format = options.log_format
        for note in notes:
            log.info("%s", note)
        if (variable := overlooked(settings.traces, os.environ)) is not None:
            log.warning("%s is set: no traces are written without pip install 'poolrt[otel]'", variable)
        check_exposure(settings, insecure=options.insecure_no_auth)
        if settings.runtime_lora and not settings.api_keys:
            log.warning(
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING without a key: whoever reaches this server may have "
                "it read folders of this machine"
            )
        # Imported late: `poolrt serve --help` needs no server, and a refused flag is reported at once.
        from .process.listening import listening
        from .process.startup import models_of

        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(sock) for sock in listening(settings)]
            models = models_of(options, settings)
            models.registry.begin()
            from .process.server import run  # takes as long as a small model takes to open

            return run(models.registry, settings, adapters=models.adapters, sockets=sockets, as_json=as_json)
    except PoolrtError as error:
        if log_format == "json":  # whatever collects the log reads JSON only
            log.critical("%s", error)
        else:
            print(f"poolrt serve: {error}", file=sys.stderr)
        if as_json:
            print(json_error(error, error.exit_code), flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as error:  # argparse after --help
        return error.code if isinstance(error.code, int) else EXIT_INPUT


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and a note for each flag that was accepted without effect. Raises InputError."""
    parser, plain = parser_of(), normalised(arguments)
    options = parser.parse_args(plain)
    give_back(options, plain)
    notes = [
        f"--{name} has no effect here: an artifact fixes it, or poolrt does without"
        for name in IGNORED
        if getattr(options, f"ignored_{name.replace('-', '_')}", None) is not None
    ]
    if not options.artifacts:
        raise InputError(
            "no artifact given: poolrt serve ARTIFACT...; make one with `poolrt export CHECKPOINT`"
        )
    refuse_other_answers(options)
    return options, notes


def refuse_other_answers(options: argparse.Namespace) -> None:
    """Raises InputError for flags of vLLM that would change a checkpoint's numbers, and cannot here."""
    if options.tokenizer not in (None, *options.artifacts):
        raise InputError(
            f"--tokenizer {options.tokenizer}: a checkpoint's own tokenizer is used; put that "
            "tokenizer's files into a copy of the checkpoint"
        )
    if options.tokenizer_revision not in (None, options.revision):
        raise InputError(
            f"--tokenizer-revision {options.tokenizer_revision}: tokenizer and weights "
            "are those of one --revision"
        )
    if options.quantization is not None:
        raise InputError(
            f"--quantization {options.quantization}: give --precision int8, or leave it out for the "
            "checkpoint's own precision"
        )


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of a server, from the options and the environment. Raises InputError."""
    environment = os.environ
    keys = [key for key in options.api_key if key]
    if not keys:
        keys = [key for name in ("POOLRT_API_KEY", "VLLM_API_KEY") if (key := environment.get(name))]
    if bool(options.ssl_keyfile) != bool(options.ssl_certfile):
        raise InputError("--ssl-keyfile and --ssl-certfile go together")
    if options.enable_ssl_refresh and not options.ssl_certfile:
        raise InputError(
            "--enable-ssl-refresh has no certificate to look at; give --ssl-keyfile and "
            "--ssl-certfile, or leave it out"
        )
    tls = None
    if options.ssl_keyfile:
        tls = Tls(
            keyfile=options.ssl_keyfile,
            certfile=options.ssl_certfile,
            ca_certs=options.ssl_ca_certs,
            cert_reqs=options.ssl_cert_reqs,
            ciphers=options.ssl_ciphers,
            refresh=options.enable_ssl_refresh,
        )
    if not 0 <= options.port <= 65535:
        raise InputError(f"--port {options.port} is not a port, expected 0 to 65535")
    return Settings(
        host=options.host,
        port=options.port,
        uds=options.uds,
        api_keys=tuple(keys),
        root_path=options.root_path,
        forwarded_allow_ips=options.forwarded_allow_ips,
        cors=Cors(
            origins=tuple(options.allowed_origins),
            methods=tuple(options.allowed_methods),
            headers=tuple(options.allowed_headers),
            credentials=options.allow_credentials,
        ),
        tls=tls,
        middleware=middleware_of(options.middleware),
        docs=not options.disable_fastapi_docs,
        tokenizer_info=options.enable_tokenizer_info_endpoint,
        track_load=options.enable_server_load_tracking,
        engine_metrics=not options.disable_log_stats,
        request_id_headers=options.enable_request_id_headers,
        timing_headers=not options.disable_timing_headers,
        check_model_name=not truthy(environment.get("VLLM_SKIP_MODEL_NAME_VALIDATION", "")),
        runtime_lora=truthy(environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "")),
        check_foreign_tokens=not options.allow_foreign_token_ids,
        chat_template=template_of(options.chat_template),
        content_format=options.chat_template_content_format,
        trust_request_chat_template=options.trust_request_chat_template,
        default_template_kwargs=gathered(options.default_chat_template_kwargs),
        score_preparation=options.preparation,
        media=media_of(options, environment),
        max_body_bytes=options.max_body_bytes,
        body_timeout_s=options.body_timeout,
        request_timeout_s=options.request_timeout,
        write_timeout_s=options.write_timeout,
        max_connections=options.max_connections,
        max_items=options.max_items,
        max_pending_bytes=options.max_pending_bytes,
        shutdown_timeout_s=options.shutdown_timeout,
        keep_alive_s=options.timeout_keep_alive
        or keep_alive_of(environment.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE")),
        max_header_bytes=options.h11_max_incomplete_event_size,
        max_header_count=options.h11_max_header_count,
        max_queued_tokens=options.max_queued_tokens,
        scheduling_policy=options.scheduling_policy,
        threads=options.server_threads,
        log_level="debug" if options.uvicorn_log_level == "trace" else options.uvicorn_log_level,
        access_log=not options.disable_uvicorn_access_log,
        log_requests=options.enable_log_requests,
        max_log_length=options.max_log_len,
        log_format=options.log_format or ("json" if options.json else "text"),
        traces=traced(options.otlp_traces_endpoint, environment),
        traces_endpoint=options.otlp_traces_endpoint,
    )


def keep_alive_of(text: str | None) -> int:
    """Seconds, from the environment variable; None: the default."""
    if text is None:
        return Settings().keep_alive_s
    if not text.strip().isdecimal():
        raise InputError(f"VLLM_HTTP_TIMEOUT_KEEP_ALIVE is {text[:60]!r}, expected whole seconds")
    return int(text)


def middleware_of(names: Sequence[str]) -> tuple[Any, ...]:
    """The classes or functions of --middleware. Raises InputError."""
    if not names:
        return ()
    from .http.middleware import imported  # Starlette, which --help does without

    return tuple(imported(name) for name in names)


def check_exposure(settings: Settings, *, insecure: bool) -> None:
    """Raises InputError for a server that anyone in the network could use without a key."""
    if settings.uds is None and settings.host not in LOOPBACK and not settings.api_keys and not insecure:
        raise InputError(
            f"--host {settings.host} lets other machines in, and no key is set: give --api-key KEY (or "
            "POOLRT_API_KEY), or --insecure-no-auth to serve everyone"
        )


def template_of(template: str | None) -> str | None:
    """Jinja text: of the file at that path, of poolrt's own template at that path, or the argument itself."""
    from ..runtime.inputs import templates  # jinja2, which --help does without

    return None if template is None else templates.named(template, "--chat-template")


def truthy(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")
