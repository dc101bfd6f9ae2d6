"""Routes about the server itself: health, models, version, load, metrics, and which artifacts it serves
(docs/http.md 10)."""

from __future__ import annotations

import time
import uuid
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.version import version
from ..context import Context, context_of
from ..errors import ApiError
from ..http.request_body import read
from ..models.artifact_loading import ArtifactLoader
from ..models.registry import Served
from ..models.shared_loading import SharedLoader
from ..responses import Json
from ..schema import artifacts
from .lora import refuse_browsers

STALLED_S = 120.0
"""An engine that had work for this long and finished no batch is taken to hang."""


async def live(request: Request) -> Response:
    """Whether the process works: its event loop turns (it handles this request) and no engine hangs.

    True also while models are loading.
    """
    context = context_of(request)
    stalled = context.registry.ready.is_set() and any(
        served.model.stalled_s() > STALLED_S for served in context.registry
    )
    return Response(status_code=503 if stalled or context.state.failure else 200)


async def ready(request: Request) -> Response:
    """Whether the server takes new work: models are open and warm, in every process that serves this port,
    and it is not draining."""
    context = context_of(request)
    peers = context.state.peers
    is_ready = context.registry.ready.is_set() and (peers is None or peers.all_ready())
    stops = context.state.stopping or context.state.draining
    return Response(status_code=200 if is_ready and not stops else 503)


async def health(request: Request) -> Response:
    """vLLM's one check for both."""
    response = await ready(request)
    return response if response.status_code != 200 else await live(request)


async def show_version(request: Request) -> Response:
    return Json({"version": version()})


async def load(request: Request) -> Response:
    return Json({"server_load": context_of(request).state.load})


async def metrics(request: Request) -> Response:
    context = context_of(request)
    text = await context.metrics.scraped(context.workshop.thread)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def models(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    return Json(
        {
            "object": "list",
            "data": [card(name, served) for served in context.registry for name in served.names],
        }
    )


async def model(request: Request) -> Response:
    """One entry of the list. Raises ApiError (404)."""
    context = context_of(request)
    context.opened()
    name = request.path_params["model"]
    served = context.registry.find(name, param="model")
    return Json(card(name if name in served.names else served.name, served))


def card(name: str, served: Served) -> dict[str, Any]:
    now = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "poolrt",
        "root": served.manifest.source.checkpoint if served.root is None else served.root,
        "parent": None if served.parent is None else served.parent.name,
        "max_model_len": served.model.max_tokens if served.parent is None else None,
        "permission": [permission],
    }


async def load_artifact(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: artifacts.LoadArtifact = await read(request, artifacts.LOAD)
    loaded = await artifact_loader(request, context).load(record.path, record.name)
    return Json(
        {
            "name": loaded.name,
            "tasks": list(loaded.tasks),
            "replaced": loaded.replaced,
            "seconds": round(loaded.seconds, 3),
        }
    )


async def unload_artifact(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: artifacts.UnloadArtifact = await read(request, artifacts.UNLOAD)
    await artifact_loader(request, context).unload(record.name)
    return Json({"name": record.name, "unloaded": True})


def artifact_loader(request: Request, context: Context) -> ArtifactLoader | SharedLoader:
    """The loader of artifacts. Raises ApiError where this request may not use it."""
    refuse_browsers(request, context, "artifacts")
    if context.artifacts is None:
        raise ApiError(501, "this server has no way to open artifacts: only poolrt serve does")
    return context.artifacts
