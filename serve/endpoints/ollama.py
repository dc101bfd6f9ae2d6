"""Ollama's API (docs/http.md 14): /api/embed and /api/embeddings, and what its clients ask for when they
start: /api/tags, /api/ps, /api/show, /api/pull, /api/version.

Names of models are compared without case and without the tag `:latest`, as Ollama does it. Its clients read
an error's text from `error`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers.params import PoolingParams
from ...runtime.outputs import Outputs
from ...runtime.version import version
from ..context import context_of
from ..errors import ApiError, api_error, ollama_response, surprising
from ..headers import header
from ..http.request_body import UNTYPED, read
from ..metrics.times import Times
from ..models.registry import Registry, Served
from ..responses import Json
from ..schema import ollama as schemas

TAG = ":latest"
Endpoint = Callable[[Request], Awaitable[Response]]


def wire(answer: Endpoint) -> Endpoint:
    """The same endpoint, whose errors are responses in Ollama's form. JSON need not be declared: Ollama's own
    examples are `curl URL -d '{...}'`. A page in a browser must, so that another site's cannot ask."""

    @functools.wraps(answer)
    async def with_ollama_errors(request: Request) -> Response:
        request.scope[UNTYPED] = header(request.scope, b"origin") is None
        try:
            return await answer(request)
        except Exception as error:
            refusal = api_error(error)
            if surprising(refusal):
                request.app.state.log(error, request)
            return ollama_response(refusal)

    return with_ollama_errors


def served_as(name: str | None, registry: Registry) -> Served:
    """The model of that name. Raises ApiError: 400 without a name, 404 for one that is not served."""
    if not name:
        raise ApiError(400, "model is required")
    try:
        return registry.find(name)
    except ApiError:
        plain = name.casefold().removesuffix(TAG)
        for served in registry:
            if plain in {spelling.casefold() for spelling in (*served.names, *served.aliases)}:
                return served
        known = ", ".join(other for served in registry for other in served.names)
        raise ApiError(404, f"model '{name[:200]}' not found; this server has {known}") from None


def embedder(name: str | None, registry: Registry) -> Served:
    """`served_as`, which must make embeddings. Raises ApiError."""
    served = served_as(name, registry)
    if not served.can("embed"):
        able = ", ".join(other.name for other in registry if other.can("embed")) or "no other model does"
        raise ApiError(400, f"model {served.name!r} makes no embeddings; {able}")
    return served


@wire
async def embed(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    begun = time.perf_counter_ns()
    record: schemas.OllamaEmbed = await read(request, schemas.EMBED)
    served = embedder(record.model, context.registry)
    texts = [record.input] if isinstance(record.input, str) else record.input
    if not texts or record.input == "":  # a client that has the model loaded
        return Json({"model": record.model, "embeddings": []})
    params = PoolingParams(use_activation=True, dimensions=record.dimensions or None)

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        content = {
            "model": record.model,
            "embeddings": outputs.arrays,
            "total_duration": time.perf_counter_ns() - begun,
            "load_duration": 0,
            "prompt_eval_count": outputs.prompt_tokens,
        }
        return Json(content, headers=headers)

    return await _vectors(request, served, record, texts, params, shape, cut=record.truncate)


@wire
async def embeddings(request: Request) -> Response:
    """The older route: one text, and a vector as the model makes it."""
    context = context_of(request)
    context.opened()
    record: schemas.OllamaEmbedding = await read(request, schemas.EMBEDDING)
    served = embedder(record.model, context.registry)
    if not record.prompt:
        return Json({"embedding": []})

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        return Json({"embedding": outputs.arrays[0]}, headers=headers)

    return await _vectors(request, served, record, [record.prompt], PoolingParams(), shape, cut=True)


async def _vectors(
    request: Request,
    served: Served,
    record: schemas.OllamaEmbed | schemas.OllamaEmbedding,
    texts: list[str],
    params: PoolingParams,
    shape: Callable[[Outputs[Any], Times, dict[str, str]], Response],
    *,
    cut: bool,
) -> Response:
    context = context_of(request)
    context.log_inputs("ollama", request, record, served, texts)
    options: dict[str, Any] = {"truncate_prompt_tokens": -1} if cut else {}

    def start(deadline_s: float | None) -> Any:
        return served.model.start(texts, params, pooling_task="embed", deadline_s=deadline_s, **options)

    return await context.workshop.answer(request, served, start, shape)


@wire
async def tags(request: Request) -> Response:
    """The served models, each under every name."""
    context = context_of(request)
    context.opened()
    cards = [card(name, served) for served in context.registry for name in served.names]
    return Json({"models": cards})


@wire
async def running(request: Request) -> Response:
    """The same models, which all stay in memory."""
    context = context_of(request)
    context.opened()
    forever = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
    cards = [card(name, served) | forever for served in context.registry for name in served.names]
    return Json({"models": cards})


@wire
async def show(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: schemas.OllamaModel = await read(request, schemas.MODEL)
    served = served_as(record.model or record.name, context.registry)
    manifest, family = served.manifest, family_of(served)
    information: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": served.name,
        f"{family}.context_length": served.model.max_tokens,
    }
    if served.can("embed"):
        head = manifest.heads["embed"]
        information[f"{family}.embedding_length"] = head.dimensions or head.dim
    content = {
        "modelfile": f"FROM {manifest.source.checkpoint}",
        "parameters": "",
        "template": "",
        "details": details(served),
        "model_info": information,
        "capabilities": ["embedding"] if served.can("embed") else [],
        "modified_at": manifest.created or None,
    }
    return Json(content)


@wire
async def pull(request: Request) -> Response:
    """Done for a model that is served; no other one is fetched."""
    context = context_of(request)
    context.opened()
    record: schemas.OllamaModel = await read(request, schemas.MODEL)
    served_as(record.model or record.name, context.registry)
    return Json({"status": "success"})


@wire
async def show_version(request: Request) -> Response:
    return Json({"version": version()})


def family_of(served: Served) -> str:
    return str(served.manifest.config.get("model_type") or served.manifest.architecture)


def details(served: Served) -> dict[str, Any]:
    precision = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
    graph = served.manifest.graph("text").precision
    return {
        "parent_model": "" if served.parent is None else served.parent.name,
        "format": "onnx",
        "family": family_of(served),
        "families": [family_of(served)],
        "parameter_size": "",
        "quantization_level": precision.get(graph, graph),
    }


def card(name: str, served: Served) -> dict[str, Any]:
    """A model in the list of models. A name without a tag gets Ollama's."""
    manifest = served.manifest
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}{TAG}"
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": manifest.created or None,
        "size": sum(file.size for file in manifest.files.values()),
        "digest": manifest.digest,
        "details": details(served),
    }
