"""`poolrt serve ARTIFACT...`: makes settings of flags and models of artifacts, then runs the server.

A checkpoint (a folder, or a hub id) in place of an artifact is exported into a cache first, by another
process. So a command line of `vllm serve` ports by changing the program's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from ..runtime import extras, machine
from ..runtime.command_line.command import PLACES, Command
from ..runtime.command_line.flags import MISSING, Flag, Value, build, declared
from ..runtime.commands.environment import misspelled
from ..runtime.errors import InputError, PoolrtError
from .json_logs import critical_line, is_wanted, json_error
from .logs import configure
from .process.options import IGNORED, Options, ignored
from .process.placement import gpu_of, places
from .process.positionals import give_back
from .settings import LOGS, Settings, Tls
from .tracing.provider import overlooked, traced

if TYPE_CHECKING:
    from .process.startup import Prepared
    from .process.worker import Worker

LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("poolrt.serve")


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    json: Annotated[
        bool,
        Flag(
            "log lines as JSON on stderr; one line on stdout when ready, with the URL, or with the error",
        ),
    ] = False
    log_format: Annotated[
        Literal["text", "json"] | None,
        Flag(
            "json: each line is an object, and each request has one with its id, model, route, status, "
            "duration and tokens",
            LOGS,
            default="text; json with --json",
        ),
    ] = None


def flags() -> list[Value]:
    """Everything that `poolrt serve` takes."""
    tls = [
        dataclasses.replace(value, default=None) if value.default is MISSING else value
        for value in declared(Tls)
    ]
    return [*declared(Options), *declared(Settings), *tls, *declared(Output), *ignored()]


class Serve(Command):
    """`poolrt serve`, whose flags with several values may stand in front of an artifact."""

    logs_json = False
    """Whether this call writes its log as JSON."""
    is_logging = False
    """Whether the log of this call is configured."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        give_back(ctx.params, ctx.meta.get(PLACES, {}))
        return rest

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        self.logs_json = is_wanted(arguments, os.environ if environment is None else environment)
        self.is_logging = False
        return super().__call__(arguments, environment)

    def run(self, ctx: click.Context) -> int:
        return _serve(*_parsed(ctx.params))

    def fail(self, message: str) -> None:
        if not self.logs_json:
            super().fail(message)
        elif self.is_logging:  # whatever collects the log reads JSON only
            log.critical("%s", message)
        else:
            print(critical_line(message), file=sys.stderr, flush=True)


def _serve(options: Options, notes: Sequence[str]) -> int:
    """Serves artifacts behind vLLM's HTTP API."""
    extras.require("serve")
    as_json = bool(options.values["json"])
    settings = settings_of(options)
    configure(
        settings,
        file=options.log_config_file,
        quiet=options.disable_access_log_for_endpoints,
    )
    serve.logs_json, serve.is_logging = options.values["log_format"] == "json", True
    for warning in misspelled(serve, os.environ):
        log.warning("%s", warning)
    for note in notes:
        log.info("%s", note)
    if (variable := overlooked(settings.traces, os.environ)) is not None:
        log.warning("%s is set: no traces are written without pip install 'poolrt[otel]'", variable)
    check_exposure(settings, insecure=options.insecure_no_auth)
    if settings.tls is not None:
        from .process import certificates

        certificates.check(settings.tls)
    if settings.runtime_lora and not settings.api_keys:
        log.warning(
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING without a key: whoever reaches this server may have "
            "it read folders of this machine"
        )
    if settings.artifact_loading and not settings.api_keys:
        log.warning(
            "--allow-artifact-loading without a key: whoever reaches this server may change what it serves"
        )
    if settings.processes > 1:
        return supervised(options, settings)
    if (gpu := gpu_of(options.device)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    # Imported late: `poolrt serve --help` needs no server, and a refused flag is reported at once.
    from .process.argument_places import is_there
    from .process.listening import listening
    from .process.progress import Progress
    from .process.startup import models_of

    progress = Progress(as_log=serve.logs_json)
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(sock) for sock in listening(settings)]
        if all(map(is_there, options.artifacts)):
            models = models_of(options, settings, run=progress.run)
        else:  # what is pulled or exported first may take minutes
            from .process.waiting_room import waiting_room

            with waiting_room(settings, sockets, progress):
                models = models_of(options, settings, run=progress.run)
        models.registry.begin()
        from .process.server import run  # takes as long as a small model takes to open

        return run(
            models.registry,
            settings,
            adapters=models.adapters,
            artifacts=models.artifacts,
            watched=models.watched,
            sockets=sockets,
            as_json=as_json,
        )


def processes_of(options: Options) -> int:
    """How many processes serve. Each is an API server with an engine, so the larger of both flags counts."""
    return max(options.api_server_count or 1, options.data_parallel_size)


def supervised(options: Options, settings: Settings) -> int:
    """Serves with several processes. Returns the exit code."""
    from .process.argument_places import is_there
    from .process.listening import check_free, listening, unix_socket
    from .process.progress import Progress
    from .process.startup import models_from, prepare
    from .process.supervisor import Supervisor, shares_port

    where = places(
        settings.processes,
        options.data_parallel_size,
        options.device,
        options.threads,
        cpus=machine.cpus(),
        gpus=0 if options.device == "cpu" else len(machine.gpus()),
    )
    binds_own = shares_port() and settings.uds is None
    with contextlib.ExitStack() as held:
        if settings.uds is not None:
            sockets = [held.enter_context(unix_socket(settings.uds))]
        else:
            check_free(settings)
            sockets = [held.enter_context(sock) for sock in listening(settings, shared=binds_own)]
            settings = dataclasses.replace(settings, port=sockets[0].getsockname()[1])
        progress = Progress(as_log=serve.logs_json)
        first: list[socket.socket] = []
        if all(map(is_there, options.artifacts)):
            prepared = prepare(options, settings, run=progress.run)
        else:  # the port is open meanwhile, and its clients go to the first worker
            from .process.waiting_room import waiting_room

            if binds_own:  # those above only keep the port: a listening one would get clients for good
                first = [held.enter_context(sock) for sock in listening(settings, shared=True)]
            with waiting_room(settings, first or sockets, progress):
                prepared = prepare(options, settings, run=progress.run)
        # Reports what is wrong, and exports adapters.
        watched = models_from(prepared, settings, run=progress.run).watched
        return Supervisor(
            serve_worker,
            dataclasses.replace(prepared, watched=None),
            where,
            settings.port,
            () if binds_own else sockets,
            settings.shutdown_timeout_s,
            first_sockets=first,
            watched=watched,
        ).run()


def serve_worker(prepared: Prepared, worker: Worker, sockets: Sequence[socket.socket]) -> int:
    """One process of several. Returns its exit code."""
    options = prepared.options
    as_json = bool(options.values["json"])
    options.threads = worker.threads
    settings = dataclasses.replace(settings_of(options), port=worker.port)
    configure(
        settings,
        file=options.log_config_file,
        quiet=options.disable_access_log_for_endpoints,
    )
    try:
        from .process.listening import listening
        from .process.progress import Progress
        from .process.server import run
        from .process.startup import models_from

        worker.attend()
        progress = Progress(as_log=settings.log_format == "json")
        models = models_from(prepared, settings, worker.changes, run=progress.run)
        models.registry.begin()
        if worker.opens_first:
            models.registry.open()
        with contextlib.ExitStack() as held:
            own = sockets or [held.enter_context(sock) for sock in listening(settings, shared=True)]
            return run(
                models.registry,
                settings,
                adapters=models.adapters,
                artifacts=models.artifacts,
                sockets=own,
                as_json=as_json,
                peers=worker,
            )
    except PoolrtError as error:
        serve.logs_json, serve.is_logging = settings.log_format == "json", True
        serve.fail(f"poolrt serve: {error}")
        if as_json:
            print(json_error(error, error.exit_code), flush=True)
        return error.exit_code


serve = Serve(
    "serve",
    _serve,
    extra="serve",
    examples=[
        "poolrt serve artifacts/all-MiniLM-L6-v2",
        "poolrt serve BAAI/bge-m3 --served-model-name m3 --max-model-len 1k",
        "poolrt serve artifacts/a artifacts/b --host 0.0.0.0 --api-key KEY",
        "poolrt serve --config serve.yaml",
    ],
    notes="Flags of `vllm serve` without a meaning here (--dtype, --seed, ...) are accepted with a note.",
    values=flags(),
)


def parse(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[Options, list[str]]:
    """The options, and a note for each flag that was accepted without effect. Raises InputError."""
    return _parsed(serve.context(arguments, environment).params)


def _parsed(values: dict[str, Any]) -> tuple[Options, list[str]]:
    options: Options = build(Options, values)
    options.values = values
    notes = [
        f"--{name} has no effect here: an artifact fixes it, or poolrt does without"
        for name in IGNORED
        if values[name.replace("-", "_")] is not None
    ]
    if not options.artifacts and not values["watch_folder"]:
        raise InputError(
            "no artifact given: poolrt serve ARTIFACT...; make one with `poolrt export CHECKPOINT`"
        )
    refuse_other_answers(options)
    return options, notes


def refuse_other_answers(options: Options) -> None:
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


def settings_of(options: Options) -> Settings:
    """The settings of a server. Raises InputError."""
    from .media import io_kwargs

    values = options.values
    settings: Settings = build(Settings, values)
    media = dataclasses.replace(
        settings.media, io_kwargs=io_kwargs.checked(settings.media.io_kwargs, "--media-io-kwargs")
    )
    return dataclasses.replace(
        settings,
        tls=tls_of(values),
        media=media,
        middleware=middleware_of(settings.middleware),
        processes=processes_of(options),
        log_format=values["log_format"] or ("json" if values["json"] else "text"),
        traces=traced(settings.traces_endpoint, os.environ),
    )


def tls_of(values: Mapping[str, Any]) -> Tls | None:
    """Raises InputError for a certificate without its key."""
    if bool(values["ssl_keyfile"]) != bool(values["ssl_certfile"]):
        raise InputError("--ssl-keyfile and --ssl-certfile go together")
    if values["enable_ssl_refresh"] and not values["ssl_certfile"]:
        raise InputError(
            "--enable-ssl-refresh has no certificate to look at; give --ssl-keyfile and "
            "--ssl-certfile, or leave it out"
        )
    return build(Tls, values) if values["ssl_keyfile"] else None


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
