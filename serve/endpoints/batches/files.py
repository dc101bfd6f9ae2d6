"""/v1/files: files of batches are uploaded, listed, fetched and deleted (docs/http.md 15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ...batches.records import Batch, StoredFile
from ...batches.store import KEPT_S, Store
from ...context import context_of
from ...errors import ApiError
from ...headers import header
from ...http.request_body import read_bytes
from ...responses import Json
from . import multipart

MOST_LISTED = 10_000
MOST_NAME = 255
"""Characters of a file's name that are kept."""


def store_of(request: Request) -> Store:
    batches = context_of(request).batches
    assert batches is not None, "routes of batches are there with --batch-folder alone"
    return batches.store


async def upload(request: Request) -> Response:
    """Stores the part `file`, whose `purpose` must be `batch`. Raises ApiError (400, 413)."""
    store = store_of(request)
    content_type = header(request.scope, b"content-type") or ""
    body = bytes(await read_bytes(request, context_of(request).workshop))

    def step() -> StoredFile:
        parts = {part.name: part for part in multipart.read(content_type, body)}
        texts = {
            name: part.content.decode("utf-8", "replace") for name, part in parts.items() if name != "file"
        }
        if texts.get("purpose") != "batch":
            raise ApiError(
                400, "purpose: expected batch, which is all that files are for here", param="purpose"
            )
        if (file := parts.get("file")) is None:
            raise ApiError(400, "file: the part is missing", param="file")
        kept_s = number(texts.get("expires_after[seconds]"), "expires_after[seconds]", KEPT_S, 3600, KEPT_S)
        name = (file.filename or "upload.jsonl")[:MOST_NAME]
        return store.add(file.content, name, kept_s=kept_s)

    return Json(asdict(await run_in_threadpool(step)))


async def show_all(request: Request) -> Response:
    files = await run_in_threadpool(store_of(request).files)
    if (purpose := request.query_params.get("purpose")) is not None:
        files = [file for file in files if file.purpose == purpose]
    if request.query_params.get("order") == "asc":
        files.reverse()
    return Json(page(request, files, MOST_LISTED))


async def show(request: Request) -> Response:
    return Json(asdict(store_of(request).file(request.path_params["file_id"])))


async def content(request: Request) -> Response:
    store = store_of(request)
    file = store.file(request.path_params["file_id"])
    return FileResponse(store.content_path(file.id), media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    identifier = request.path_params["file_id"]
    await run_in_threadpool(store_of(request).delete, identifier)
    return Json({"id": identifier, "object": "file", "deleted": True})


def number(text: str | None, name: str, default: int, least: int, most: int) -> int:
    """Raises ApiError (400) for what is no whole number in the bounds."""
    if text is None:
        return default
    if not (text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise ApiError(400, f"{name}: expected a whole number from {least} to {most}", param=name)
    return int(text)


def page(request: Request, records: Sequence[StoredFile] | Sequence[Batch], default: int) -> dict[str, Any]:
    """A list as OpenAI's clients page through it: behind the record `after`, at most `limit`. Raises ApiError
    (400)."""
    limit = number(request.query_params.get("limit"), "limit", default, 1, MOST_LISTED)
    after = request.query_params.get("after")
    first = next((place + 1 for place, record in enumerate(records) if record.id == after), 0)
    shown = records[first : first + limit]
    return {
        "object": "list",
        "data": [asdict(record) for record in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": first + limit < len(records),
    }
