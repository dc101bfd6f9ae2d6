"""Runs the application under uvicorn: the socket, signals, draining, exit codes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from ...runtime.errors import EXIT_INTERNAL, EXIT_OK, InputError, PoolrtError
from ..app import create_app
from ..context import Context
from ..endpoints.routes import PROBES
from ..http import parting
from ..http.connections import ConnectionLimits, affordable
from ..http.protocol import protocol, uncounted
from ..json_logs import json_error
from ..models.adapters import AdapterExporter
from ..models.artifact_loading import Open
from ..models.registry import Registry
from ..models.watching import WatchedFolder
from ..settings import Settings
from .certificates import LOOK_S, Certificates
from .listening import close_queue, has_queue
from .memory_trimming import LOOK_S as TRIM_S
from .memory_trimming import Trimming
from .signals import on_hangup
from .worker import Worker

log = logging.getLogger("poolrt.serve")

GC_THRESHOLDS = (2000, 10, 1000)
"""A full collection visits all queued items, which may be a million objects and stop the server for a second.
So it runs when the server is idle (`on_tick`), and otherwise once in many million objects."""
IDLE_COLLECTION_S = 30
"""Seconds between two full collections of an idle server."""
SWITCH_S = 0.0005
"""Seconds that a thread runs Python code before it lets others run. The event loop waits this long for each
thread that prepares a large request."""
FLUSH_S = 0.1
"""Seconds for sending the last bytes of the last responses."""
QUEUE_S = 1.0
"""Seconds for taking the connections that clients have opened when the server stops."""


class Server(uvicorn.Server):
    """uvicorn's server, which drains at the first SIGTERM or SIGINT and ends at the second.

    While it drains it takes no new work, and running requests finish within the timeout.
    """

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self.context = context
        self._certificates: Certificates | None = None
        self._trimming: Trimming | None = None

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        tls = self.context.settings.tls
        if tls is not None and tls.refresh and counter % round(10 * LOOK_S) == 0:
            if self._certificates is None:
                assert self.config.ssl is not None, "uvicorn makes it before it serves"
                self._certificates = Certificates(tls, self.config.ssl)
            self._certificates.refresh()
        if counter % (10 * IDLE_COLLECTION_S) == 0 and not self.context.state.in_flight:
            gc.collect()
        if counter % round(10 * TRIM_S) == 0:
            self._trimming = self._trimming or Trimming()
            self._trimming.look(idle=not self.context.state.in_flight)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The last requests of open connections, uvicorn's shutdown, then the end of all connections that are
        still open."""
        if self.context.state.stopping:
            await self._part(sockets or [])
        self.context.state.draining = True
        await super().shutdown(sockets)
        connections = list(self.server_state.connections)
        for connection in connections:
            transport: Any = connection.transport
            transport.close_now()
        if connections:
            await asyncio.sleep(FLUSH_S)

    async def _part(self, sockets: Sequence[socket.socket]) -> None:
        """Takes the connections that clients have opened, stops listening, and answers what connections send
        next."""
        parting.part(self)
        if not sockets:  # a unix socket, which the loop has opened
            sockets = [sock for server in self.servers for sock in server.sockets]
        for sock in sockets:
            close_queue(sock)
        begun = time.monotonic()
        while any(map(has_queue, sockets)) and not self.force_exit and time.monotonic() - begun < QUEUE_S:
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await parting.last_requests(self, idle_s=parting.IDLE_S, fresh_s=parting.FRESH_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            log.warning("second signal: ending now")
            self.force_exit = True
            return
        self.context.state.stopping = True
        if self.context.artifacts is not None:
            self.context.artifacts.close()
        if self.context.loader is not None:
            self.context.loader.adapters.close()  # no adapter is loaded any more
        log.info(
            "%s: finishing %d requests, up to %g s",
            signal.Signals(sig).name,
            self.context.state.in_flight,
            self.config.timeout_graceful_shutdown,
        )
        self.should_exit = True


def run(
    registry: Registry,
    settings: Settings,
    *,
    adapters: AdapterExporter | None = None,
    artifacts: Open | None = None,
    watched: WatchedFolder | None = None,
    sockets: Sequence[socket.socket] = (),
    as_json: bool = False,
    peers: Worker | None = None,
) -> int:
    """Serves until it is stopped. Returns the exit code of the process. Raises InputError.

    Args:
        adapters, artifacts, watched: see `create_app`.
        sockets: bound sockets, which it closes; none: it binds the address of the settings.
        peers: the other processes of this server. The last one that is ready says so for all.
    """
    if sockets and settings.uds is None:
        settings = dataclasses.replace(settings, port=sockets[0].getsockname()[1])
    app = create_app(registry, settings, adapters, artifacts=artifacts, watched=watched, supervision=peers)
    context: Context = app.state.context
    if peers is not None:
        context.state.peers = peers
        peers.report(context.metrics.text)
    options = uvicorn_options(settings, refused=context.metrics.refused)
    server = Server(uvicorn.Config(app, **options), context)

    def stop() -> None:
        server.should_exit = True

    app.state.stop = stop

    def ready() -> None:
        # Objects that stay for good are frozen, so that later collections do not visit them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_S)
        if peers is not None and not peers.ready():
            return
        announce(registry, settings)
        if as_json:
            print(json.dumps(readiness(registry, settings), ensure_ascii=False), flush=True)

    app.state.announce = ready
    on_hangup(server.handle_exit)
    try:
        server.run(list(sockets) or None)
    except OSError as error:
        if server.started or settings.uds is None:
            raise
        raise InputError(
            f"--uds {settings.uds}: cannot be listened at ({error.strerror or error}); give another path",
            field="uds",
        ) from None
    if context.loader is not None:  # a second signal ends the server without its lifespan
        context.loader.close()
    failure = context.state.failure
    if failure is None:
        return EXIT_OK
    code = failure.exit_code if isinstance(failure, PoolrtError) else EXIT_INTERNAL
    if as_json:
        print(json_error(failure, code), flush=True)
    return code


def limits_of(settings: Settings) -> ConnectionLimits:
    """The limits of a connection, and of their number."""
    return ConnectionLimits(
        head_s=settings.body_timeout_s,
        body_s=settings.body_timeout_s,
        idle_s=settings.keep_alive_s,
        write_s=settings.write_timeout_s,
        header_bytes=settings.max_header_bytes,
        header_count=settings.max_header_count,
        connections=affordable(settings.max_connections),
        open_paths=PROBES | {settings.root_path.rstrip("/") + path for path in PROBES},
    )


def uvicorn_options(settings: Settings, *, refused: Callable[[str], None] = uncounted) -> dict[str, Any]:
    """The keyword arguments of uvicorn.Config besides the application.

    Args:
        refused: counts requests that never reach the application (Metrics.refused).
    """
    options: dict[str, Any] = {
        # In JSON the application writes these lines, with what uvicorn does not know.
        "http": protocol(limits_of(settings), logs_requests=settings.log_format == "text", refused=refused),
        "log_config": None,
        "access_log": settings.access_log,
        "server_header": False,
        "date_header": True,
        "timeout_graceful_shutdown": settings.shutdown_timeout_s,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": settings.forwarded_allow_ips,
        "lifespan": "on",
        "ws": "none",
        "backlog": 2048,
        # Starlette strips a root_path from some paths only; the gate strips it from all.
        "root_path": "",
    }
    if settings.uds is not None:
        options["uds"] = settings.uds
    else:
        options |= {"host": settings.host, "port": settings.port}
    if settings.tls is not None:
        tls = settings.tls
        options |= {
            "ssl_keyfile": tls.keyfile,
            "ssl_certfile": tls.certfile,
            "ssl_ca_certs": tls.ca_certs,
            "ssl_cert_reqs": tls.cert_reqs,
        }
        options["ssl_ciphers"] = tls.ciphers
        options["ssl_version"] = ssl.PROTOCOL_TLS_SERVER
    return options


def url_of(settings: Settings) -> str:
    scheme = "http" if settings.tls is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return settings.uds or f"{scheme}://{host}:{settings.port}{settings.root_path}"


def readiness(registry: Registry, settings: Settings) -> dict[str, Any]:
    """The line of JSON for the program that started this one."""
    models = [
        {
            "names": list(served.names),
            "tasks": list(served.model.tasks),
            "scoring": served.manifest.scoring,
            "max_tokens": served.model.max_tokens,
            "engine": served.model.engine.name,
        }
        for served in registry
    ]
    return {"event": "ready", "url": url_of(settings), "models": models}


def announce(registry: Registry, settings: Settings) -> None:
    """Logs the address, the models and a command to try, once the models are ready."""
    where = url_of(settings)
    key = ' -H "Authorization: Bearer $POOLRT_API_KEY"' if settings.api_keys else ""
    lines = [f"serving at {where} (documentation: {where}/docs)"]
    for served in registry:
        names = ", ".join(served.names)
        lines.append(
            f"  {names}: {', '.join(served.model.tasks)}; up to {served.model.max_tokens} tokens; "
            f"{served.model.engine.name}"
        )
    first = registry.models[0]
    if first.can("embed"):
        path, example = "/v1/embeddings", '{"input": "hello"}'
    elif first.can("score"):
        path, example = "/rerank", '{"query": "capital of France", "documents": ["Paris", "Mars"]}'
    else:
        path, example = "/pooling", '{"input": "hello"}'
    lines.append(f"try: curl {where}{path}{key} -H 'Content-Type: application/json' -d '{example}'")
    for line in lines:
        log.info("%s", line)
