"""GET /openapi.json and the pages that show it: one self-contained HTML file, no
network needed to read it."""

from __future__ import annotations

import functools
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ..responses import Json
from .openapi import document


@functools.cache
def page(name: str) -> str:
    return files("poolrt.serve.pages").joinpath(name).read_text(encoding="utf-8")


async def openapi(request: Request) -> Response:
    return Json(document(request.app.state.context.settings))


async def show(request: Request) -> Response:
    return HTMLResponse(page("reference.html"))


async def oauth2(request: Request) -> Response:
    """Where FastAPI's page would come back to; ours asks for no OAuth."""
    return HTMLResponse("<!doctype html><title>poolrt</title>")


PAGES = (("/openapi.json", openapi), ("/docs", show), ("/redoc", show), ("/docs/oauth2-redirect", oauth2))
