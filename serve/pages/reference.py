"""GET /openapi.json and the pages that show it: one self-contained HTML file, which can be read without
network."""

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
    """The address that FastAPI's page returns to after OAuth, which this server does not use."""
    return HTMLResponse("<!doctype html><title>poolrt</title>")


PAGES = (("/openapi.json", openapi), ("/docs", show), ("/redoc", show), ("/docs/oauth2-redirect", oauth2))
