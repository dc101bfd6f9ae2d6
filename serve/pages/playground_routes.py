"""The playground's own routes: how a model reads a picture, where a page answers a query, a page of a PDF.

They are rows of a route table, so that they stand behind the same key, limits and counts as all routes.
They are no part of the API: what they return may change with the page that asks them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.batching.pending import Pending
from ...runtime.inputs.media.medium import Medium
from ...runtime.outputs import Match
from ..context import Context, context_of
from ..endpoints.route import Route
from ..endpoints.score import style
from ..errors import ApiError
from ..http.request_body import read
from ..media import data_urls
from ..media.attaching import Attached
from ..models.registry import Served
from ..responses import Json
from ..schema import playground as schemas
from . import heat_map, pdf

PLACE = "image"
"""Of the picture in a body."""


async def picture(
    request: Request, context: Context, served: Served, record: schemas.PictureFacts
) -> Response:
    """How a model reads a picture: its size, its tokens, and the grids and parts it is cut into."""
    pictures = await attached(request, context, served, record)

    def step() -> dict[str, Any]:
        medium = prepared(pictures, record.image)
        return {
            "height": medium.size[0],
            "width": medium.size[1],
            "tokens": medium.tokens,
            "apart": served.manifest.images is not None and served.manifest.images.apart,
            "grids": medium.grids,
            "regions": medium.regions,
        }

    return Json(await context.workshop.prepare(request, pictures, step))


async def heat(request: Request, context: Context, served: Served, record: schemas.HeatMap) -> Response:
    """Which patch of a page answers each token of a query, and what each token adds to the score."""
    pictures = await attached(request, context, served, record)

    def start(deadline_s: float | None) -> Pending[Mapping[str, Any]]:
        medium = prepared(pictures, record.image)
        document = {"content": [{"type": "image", "image": lambda: medium}]}
        prepared_as = record.preparation or style(served, context.settings)["preparation"]
        pending = served.model.start_match(
            record.query, document, deadline_s=deadline_s, preparation=prepared_as
        )
        return pending.then(lambda match: shown(match, medium, served))

    content, _ = await context.workshop.run(request, served, start, pictures=pictures)
    body = await context.workshop.thread(lambda: orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
    return Response(body, media_type="application/json")


async def pdf_page(request: Request) -> Response:
    """One page of a PDF as a PNG."""
    context = context_of(request)
    record: schemas.PdfPage = await read(request, schemas.PDF_PAGE)
    if not data_urls.is_data_url(record.pdf):
        raise ApiError(400, "pdf: expected a data: URL (parameter=pdf)", param="pdf")

    def step() -> dict[str, Any]:
        image, facts = pdf.drawn(data_urls.decoded(data_urls.read(record.pdf).text), record.page)
        return {**facts, "image": f"data:image/png;base64,{base64.b64encode(image).decode()}"}

    return Json(await context.workshop.watched(pdf.THREADS, request, step))


async def attached(
    request: Request, context: Context, served: Served, record: schemas.PictureFacts | schemas.HeatMap
) -> Attached:
    """The picture of a body, not yet decoded. Raises ApiError, also for a model that reads text only."""
    prompts = [[(PLACE, sent(record.image))]]
    pictures = await context.workshop.attach(request, served, record, lambda: prompts)
    if pictures is None:
        raise ApiError(400, f"the model `{served.name}` reads no pictures", param="model")
    return pictures


def sent(url: str) -> list[dict[str, Any]]:
    """The content of a message that has this picture only."""
    return [{"type": "image_url", "image_url": {"url": url}}]


def prepared(pictures: Attached, url: str) -> Medium:
    """The picture as the model reads it. Call it in a thread. Raises InputError and ApiError."""
    (part,) = pictures.parts(PLACE, sent(url))
    return part["image"]()


def shown(match: Match, medium: Medium, served: Served) -> dict[str, Any]:
    encoder = served.model.preparation.encoder
    return heat_map.content(
        match.similarities,
        match.feature_places,
        medium,
        ids=match.query_ids,
        pieces=encoder.pieces(match.query_ids),
        document_pieces=encoder.pieces(match.document_ids),
    )


ROUTES: tuple[Route, ...] = (
    Route(path="/playground/picture", answer=picture, api="Pooling", ability="pooling",
          bodies=(schemas.PICTURE,), is_queued=False, about="How a model reads a picture"),
    Route(path="/playground/heatmap", answer=heat, api="Heat map", ability="token_embed",
          bodies=(schemas.HEAT_MAP,), about="Where a page answers a query"),
    Route(path="/playground/pdf", endpoint=pdf_page, bodies=(schemas.PDF_PAGE,), is_queued=False,
          about="One page of a PDF as a picture"),
)  # fmt: skip
UNQUEUED = frozenset(route.path for route in ROUTES if not route.is_queued)
