"""/v1/batches: a batch is started, followed and cancelled (docs/http.md 15)."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ...batches.records import Batch
from ...batches.store import Store, now
from ...context import context_of
from ...errors import ApiError
from ...http.request_body import read
from ...responses import Json
from ...schema import batch as schemas
from .files import page, store_of

WINDOW_S = 24 * 3600
LISTED = 20


async def create(request: Request) -> Response:
    """Raises ApiError: 400 for an endpoint that no batch can have, 404 for no such file."""
    batches, store = context_of(request).batches, store_of(request)
    assert batches is not None
    record: schemas.BatchRequest = await read(request, schemas.BATCH)
    if record.endpoint not in batches.endpoints:
        known = ", ".join(sorted(batches.endpoints))
        raise ApiError(400, f"endpoint: expected one of {known}", param="endpoint")
    created = now()
    batch = Batch(
        id=f"batch_{uuid.uuid4().hex}",
        endpoint=record.endpoint,
        input_file_id=store.file(record.input_file_id).id,
        completion_window=record.completion_window,
        created_at=created,
        expires_at=created + WINDOW_S,
        metadata=record.metadata,
    )
    await run_in_threadpool(store.put, batch)
    batches.runner.wake()
    return Json(shown(batch, store))


async def show_all(request: Request) -> Response:
    store = store_of(request)

    def step() -> list[Batch]:
        return [as_seen(batch, store) for batch in store.batches()]

    return Json(page(request, await run_in_threadpool(step), LISTED))


async def show(request: Request) -> Response:
    store = store_of(request)
    return Json(shown(store.batch(request.path_params["batch_id"]), store))


async def cancel(request: Request) -> Response:
    """Requests that run are still answered. Raises ApiError: 404, 400 for a batch that is over."""
    batches, store = context_of(request).batches, store_of(request)
    assert batches is not None
    batch = store.batch(request.path_params["batch_id"])
    if batch.is_over:
        raise ApiError(400, f"a batch that is {batch.status} cannot be cancelled")
    store.ask_to_cancel(batch.id)
    batches.runner.wake()
    return Json(shown(batch, store))


def as_seen(batch: Batch, store: Store) -> Batch:
    """The batch as its client sees it, who knows that it asked to cancel."""
    moment = None if batch.is_over else store.cancel_moment(batch.id)
    return batch if moment is None else replace(batch, status="cancelling", cancelling_at=moment)


def shown(batch: Batch, store: Store) -> dict[str, Any]:
    return asdict(as_seen(batch, store))
