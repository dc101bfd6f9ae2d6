"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter (docs/http.md 10), if the operator allows them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..context import Context, context_of
from ..errors import ApiError
from ..http.request_body import read
from ..models.adapter_loading import Loader, refused
from ..models.adapters import NamedAdapter
from ..schema import vllm


async def load(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: vllm.LoadAdapter = await read(request, vllm.LOAD_ADAPTER)
    adapter = NamedAdapter(
        name=record.lora_name, path=record.lora_path, base_model_name=record.base_model_name
    )
    return PlainTextResponse(await loader(request, context).load(adapter, in_place=record.load_inplace))


async def unload(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: vllm.UnloadAdapter = await read(request, vllm.UNLOAD_ADAPTER)
    return PlainTextResponse(await loader(request, context).unload(record.lora_name))


def loader(request: Request, context: Context) -> Loader:
    """The loader of adapters. Raises ApiError where this request may not use it."""
    refuse_browsers(request, context, "adapters")
    if context.loader is None:
        raise refused("LoRA is not enabled; start the server with --enable-lora")
    return context.loader


def refuse_browsers(request: Request, context: Context, what: str) -> None:
    """Raises ApiError for a web page's request to a server without a key: any page that is opened on this
    machine could change what is served."""
    if "origin" in request.headers and not context.settings.api_keys:
        raise ApiError(
            403, f"{what} are not loaded for browsers by a server without a key; give it one with --api-key"
        )
