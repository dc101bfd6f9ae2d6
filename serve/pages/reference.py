"""GET /openapi.json and the pages that show it: one self-contained HTML file, which can be read without
network."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ..responses import Json
from .assembly import assembled
from .openapi import document

REFERENCE = assembled("reference.html")


async def openapi(request: Request) -> Response:
    return Json(document(request.app.state.context.settings))


async def oauth2(request: Request) -> Response:
    """The address that FastAPI's page returns to after OAuth, which this server does not use."""
    return HTMLResponse("<!doctype html><title>poolrt</title>")


PAGES = (
    ("/openapi.json", openapi),
    ("/docs", REFERENCE.respond),
    ("/redoc", REFERENCE.respond),
    ("/docs/oauth2-redirect", oauth2),
)
