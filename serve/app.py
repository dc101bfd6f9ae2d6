"""The application: its routes, its middleware layers, and the handler that makes responses of errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..runtime.errors import InputError, PoolrtError
from .batches.asking import Asking
from .batches.batches import Batches
from .batches.running import Runner
from .batches.store import Store
from .context import Context
from .endpoints import tei
from .endpoints.routes import MODELS, PROBES, ROUTES, UNCOUNTED, UNQUEUED, absent
from .errors import REASON, ApiError, api_error, error_body, error_response, surprising
from .execution import Workshop
from .headers import header, identified
from .http import middleware
from .http.access import Gate
from .http.observation import Observation
from .lifespan import lifespan
from .logs import plain
from .metrics.prometheus import Metrics
from .metrics.state import State
from .models.adapter_loading import Loader
from .models.adapters import AdapterExporter
from .models.artifact_loading import ArtifactLoader, Open
from .models.registry import Registry
from .models.shared_loading import SharedLoader, Supervision
from .models.watching import WatchedFolder
from .pages import playground, playground_routes, reference
from .settings import Settings
from .tracing import provider as trace_provider

if TYPE_CHECKING:
    from .tracing.spans import Tracing

log = logging.getLogger("poolrt.serve")

MODEL_PATHS = frozenset(route.path for route in MODELS)


def create_app(
    registry: Registry,
    settings: Settings,
    adapters: AdapterExporter | None = None,
    *,
    tracing: Tracing | None = None,
    artifacts: Open | None = None,
    watched: WatchedFolder | None = None,
    supervision: Supervision | None = None,
) -> Starlette:
    """The ASGI application. Its lifespan opens the registry's models; open them first to serve at once.

    Raises InputError for a --middleware that cannot be made, EngineError where traces are asked for without
    OpenTelemetry.

    Args:
        adapters: makes models of LoRA adapters; None: LoRA is off.
        tracing: traces requests; None: what the settings say.
        artifacts: opens artifacts that come while the server runs; None: none may come.
        watched: the folder that is followed, with `artifacts`.
        supervision: the supervisor of several processes, which change what they serve together; None: this
            process is alone.
    """
    if tracing is None and settings.traces:
        tracing = trace_provider.opened(settings.traces_endpoint)
    state = State()
    metrics = Metrics(registry, state, engine=settings.engine_metrics, uncounted=UNCOUNTED)
    loader = None
    if settings.runtime_lora and adapters is not None:
        loader = Loader(registry, adapters, drain_s=settings.shutdown_timeout_s)
    workshop = Workshop(
        settings,
        metrics,
        state,
        registry,
        unqueued=UNQUEUED | playground_routes.UNQUEUED,
        tracing=tracing,
    )
    changing = None
    if artifacts is not None:
        changing = ArtifactLoader(registry, artifacts, turn=lambda: state.turn().is_over, adapters=adapters)
        if supervision is not None:
            changing = SharedLoader(changing, supervision)
    table = routes(settings)
    app = Starlette(
        routes=table,
        middleware=layers(settings, metrics, state, table, tracing),
        exception_handlers=handlers(),
        lifespan=lifespan,
    )
    batches = batches_of(settings, app, table, state)
    context = Context(
        settings, registry, state, metrics, workshop, loader, tracing, batches, changing, watched
    )
    if settings.middleware:
        app.middleware_stack = stacked(app)
    app.state.context = context
    app.state.log = log_error
    # Hooks of the server that runs this application; without a server they do nothing.
    app.state.owns_models = True
    app.state.announce = app.state.stop = lambda: None
    return app


def batches_of(settings: Settings, app: Starlette, table: Sequence[Route], state: State) -> Batches | None:
    """Batch files, whose requests go to the endpoints as those of clients do, behind the key and the limits
    of connections. None without --batch-folder. Raises InputError for a folder that cannot be written."""
    if settings.batch_folder is None:
        return None
    store = Store(settings.batch_folder, settings.max_batch_bytes)
    posted = {route.path: route for route in table if route.path in MODEL_PATHS}
    asking = Asking(Direct(app.router, routes=posted), app, state)
    return Batches(store, Runner(store, asking), frozenset(posted))


def stacked(app: Starlette) -> ASGIApp:
    """The middleware stack, built at once: a faulty layer is reported at the start. Raises InputError."""
    try:
        return app.build_middleware_stack()
    except Exception as error:  # other people's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"--middleware: a layer could not be made ({why}); expected {middleware.EXPECTED}"
        ) from error


class Direct:
    """Calls the endpoints of POST routes directly, and passes all other requests on to Starlette's router.

    Starlette's way to an endpoint is three layers and a walk through the routes: a tenth of what the event
    loop does for a short text.
    """

    def __init__(self, app: ASGIApp, *, routes: Mapping[str, Route]) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (
            self.routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        )
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            response = answer(request, error)
        await response(scope, receive, send)


class Cors(CORSMiddleware):
    """CORS for requests with an origin, which only browsers send; others skip the layer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inside = self.app if header(scope, b"origin") is None else super().__call__
        await inside(scope, receive, send)


def routes(settings: Settings) -> list[Route]:
    table = [
        Route(route.path, route.respond, methods=list(route.methods))
        for route in (*ROUTES, *playground_routes.ROUTES)
        if route.is_on(settings)
    ]
    table += [
        Route("/playground.json", playground.facts, methods=["GET"]),
        Route("/", home, methods=["GET", "POST"]),
    ]
    if settings.docs:
        table += [Route(path, endpoint, methods=["GET"]) for path, endpoint in reference.PAGES]
    return table


async def home(request: Request) -> Response:
    return await (tei.root(request) if request.method == "POST" else playground.page(request))


def layers(
    settings: Settings,
    metrics: Metrics,
    state: State,
    table: Sequence[Route],
    tracing: Tracing | None,
) -> list[Middleware]:
    cors = settings.cors
    log = settings.access_log and settings.log_format == "json"
    observation = Middleware(
        Observation, tracing=tracing, log=log, untraced=PROBES | UNCOUNTED, root=settings.root_path
    )
    return [
        *middleware.layers(settings.middleware),
        *([observation] if log or tracing is not None else []),
        Middleware(
            Gate,
            settings=settings,
            metrics=metrics,
            state=state,
            paths=frozenset(route.path for route in table),
            probes=PROBES,
        ),
        Middleware(
            Cors,
            allow_origins=list(cors.origins),
            allow_methods=list(cors.methods),
            allow_headers=list(cors.headers),
            allow_credentials=cors.credentials,
        ),
        Middleware(Direct, routes={route.path: route for route in table if route.methods == {"POST"}}),
    ]


def handlers() -> Mapping[Any, Callable[[Request, Exception], Any]]:
    # Starlette's handler for Exception raises the error again. So each of our own errors is registered, and
    # only unexpected ones reach that handler.
    return dict.fromkeys((HTTPException, ApiError, PoolrtError, Exception), answer)


def log_error(error: Exception, request: Request) -> None:
    """Logs the error with its stack, which the client never sees."""
    log.error(
        "%s %s failed: %s",
        request.method,
        request.url.path,
        type(error).__name__,
        exc_info=error,
        extra={"request_id": plain(identified(request.scope))},
    )


def answer(request: Request, error: Exception) -> Response:
    """The response to a request that failed."""
    if isinstance(error, HTTPException):
        content: dict[str, Any] = {"detail": error.detail}
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if error.status_code == HTTPStatus.NOT_FOUND and path in MODEL_PATHS:
            # Besides Starlette's key, which vLLM's clients read, the keys of every other error.
            refusal = ApiError(error.status_code, absent(path, request.app.state.context.registry))
            content |= error_body(refusal)
        return Response(orjson.dumps(content), error.status_code, error.headers, "application/json")
    refusal = api_error(error)
    request.scope[REASON] = refusal.reason
    if surprising(refusal):
        request.app.state.log(error, request)
    return error_response(refusal)
