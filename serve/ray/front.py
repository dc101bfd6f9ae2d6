"""The front: it reads a request, finds its model, and has a replica respond, another one where that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.artifact import reading
from ..errors import ApiError, error_response
from ..process.startup import default_name
from .exchange import Answered, Exchange, beginning, parsed

LISTS = ("/v1/models", "/models")
ONE_PROCESS = {
    "/metrics": "every replica counts its own requests: scrape the metrics of Ray Serve on each node",
    "/v1/load_lora_adapter": "it would reach one replica of several: name adapters at the start",
    "/v1/unload_lora_adapter": "it would reach one replica of several: name adapters at the start",
    "/v1/artifacts/load": "it would reach one replica of several: deploy the application again",
    "/v1/artifacts/unload": "it would reach one replica of several: deploy the application again",
}
"""Path -> why it is refused here."""
PAUSE_S = 0.05
"""Before another replica is asked. Serve learns of a death within this time."""


class Front:
    """What Serve's proxy calls for each request.

    Args:
        replicas: handle of their deployment.
        artifacts: artifact -> the names that requests use; empty: its own.
        retries: how many times another replica is asked for one request.
        most_bytes: of a body; beyond it 413.
    """

    def __init__(
        self, replicas: Any, artifacts: Mapping[str, Sequence[str]], retries: int, most_bytes: int
    ) -> None:
        self._replicas = replicas
        self._retries = retries
        self._most_bytes = most_bytes
        self._first = next(iter(artifacts))
        self._by_name: dict[str, str] = {}
        self._several = len(artifacts) > 1
        self._listed: list[Any] | None = None
        if self._several:  # one model decides for itself whether a name is its own
            for artifact, names in artifacts.items():
                for name in (*names, *names_of(artifact)):
                    self._by_name.setdefault(name, artifact)

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._response(request)
        except ApiError as error:
            return error_response(error)

    async def _response(self, request: Request) -> Response:
        path = request.url.path
        if (why := ONE_PROCESS.get(path)) is not None:
            raise ApiError(404, f"{path} is not there on Ray Serve: {why}")
        body = await self._body(request)
        content = parsed(body)
        exchange = Exchange(
            method=request.method,
            path=path,
            query=request.scope["query_string"],
            headers=tuple(request.headers.raw),
            body=body,
            scheme=request.url.scheme,
            client=None if request.client is None else (request.client.host, request.client.port),
            prompt=beginning(content),
        )
        if self._several and path in LISTS and request.method == "GET":
            return await self._list(exchange)
        return sent(await self.ask(exchange, self._artifact(content.get("model"))))

    def _artifact(self, name: object) -> str:
        """Raises ApiError (404)."""
        if not self._several or not name:
            return self._first
        artifact = self._by_name.get(str(name))
        if artifact is None:
            known = ", ".join(self._by_name)
            raise ApiError(
                404, f"The model `{str(name)[:200]}` does not exist. Valid names: {known}.", param="model"
            )
        return artifact

    async def _body(self, request: Request) -> bytes:
        """Raises ApiError (413) for one that is too large."""
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._most_bytes:
                raise ApiError(413, f"the body has more than {self._most_bytes} bytes (--max-body-bytes)")
            parts.append(part)
        return b"".join(parts)

    async def _list(self, exchange: Exchange) -> Response:
        """The models of all artifacts. Each is asked once, which opens it on some replica."""
        if self._listed is None:
            responses = [
                await self.ask(exchange, artifact) for artifact in dict.fromkeys(self._by_name.values())
            ]
            refused = next((response for response in responses if response.status != 200), None)
            if refused is not None:
                return sent(refused)
            self._listed = [entry for response in responses for entry in orjson.loads(response.body)["data"]]
        return Response(orjson.dumps({"object": "list", "data": self._listed}), media_type="application/json")

    async def ask(self, exchange: Exchange, artifact: str) -> Answered:
        """The response of a replica. Requests change nothing, so one whose replica died is asked of another.
        Raises ApiError (429, 503)."""
        from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]
        from ray.serve.exceptions import BackPressureError  # pyright: ignore[reportMissingImports]

        handle = self._replicas.options(multiplexed_model_id=artifact) if self._several else self._replicas
        for attempt in range(self._retries + 1):
            try:
                return await handle.respond.remote(exchange)
            except BackPressureError:
                raise ApiError(
                    429, "all replicas are busy; try again later", headers={"Retry-After": "1"}
                ) from None
            except RayActorError:
                await asyncio.sleep(PAUSE_S * 2**attempt)
        raise ApiError(503, "the replica was lost; try again", headers={"Retry-After": "1"})


def names_of(artifact: str) -> list[str]:
    """An artifact's own names: that of the folder's manifest, and its checkpoint's."""
    folder = Path(artifact)
    if not folder.is_dir():
        return [artifact]
    manifest = reading.read(folder, check="quick").manifest
    return [default_name(artifact, folder), manifest.source.checkpoint]


def sent(answered: Answered) -> Response:
    """The response of a replica, byte for byte."""
    response = Response(answered.body, answered.status)
    response.raw_headers = list(answered.headers)
    return response
