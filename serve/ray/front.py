"""The front: it reads a request, finds its model, and has a replica respond, another one where that dies."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError, error_response
from .artifacts import Names
from .exchange import Answered, Exchange, beginning, model_of, parsed

ELSEWHERE = "change `artifacts` in the user_config of the deployment poolrt, and `serve deploy` again"
ADAPTERS = "it would reach one replica of several: name adapters in `flags`"
ONE_PROCESS = {
    "/metrics": "every replica counts its own requests: scrape the metrics of Ray on each node",
    "/v1/load_lora_adapter": ADAPTERS,
    "/v1/unload_lora_adapter": ADAPTERS,
    "/v1/artifacts/load": ELSEWHERE,
    "/v1/artifacts/unload": ELSEWHERE,
}
"""Path -> why it is refused here."""
PAUSE_S = 0.05
"""Before another replica is asked. Serve learns of a death within this time."""
log = logging.getLogger("poolrt.serve")


class Front:
    """What Serve's proxy calls for each request.

    Args:
        replicas: handle of their deployment.
        retries: how many times another replica is asked for one request.
        most_bytes: of a body; beyond it 413.
    """

    def __init__(self, replicas: Any, retries: int, most_bytes: int) -> None:
        self._replicas = replicas
        self._retries = retries
        self._most_bytes = most_bytes
        self._names: Names | None = None
        self._learning: asyncio.Task[None] | None = None

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
            model=model_of(path, content),
        )
        return sent(await self.ask(exchange))

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

    async def ask(self, exchange: Exchange) -> Answered:
        """The response of a replica. Requests change nothing, so one whose replica died is asked of another.
        Raises ApiError (429, 503)."""
        from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]
        from ray.serve.exceptions import BackPressureError  # pyright: ignore[reportMissingImports]

        handle = self._handle(exchange)
        for attempt in range(self._retries + 1):
            try:
                answered: Answered = await handle.respond.remote(exchange)
            except BackPressureError:
                raise ApiError(
                    429, "all replicas are busy; try again later", headers={"Retry-After": "1"}
                ) from None
            except RayActorError:
                await asyncio.sleep(PAUSE_S * 2**attempt)
                continue
            if (self._names is None or answered.table != self._names.digest) and self._learning is None:
                self._learning = asyncio.create_task(self._learn())
            return answered
        raise ApiError(503, "the replica was lost; try again", headers={"Retry-After": "1"})

    def _handle(self, exchange: Exchange) -> Any:
        """The handle of the replicas, with the model of a request where there are several. A name that is not
        known here goes to any replica, which has the last word."""
        if self._names is None or not self._names.several:
            return self._replicas
        if exchange.model:
            key = self._names.key(exchange.model)
        else:
            key = None if exchange.method == "GET" else self._names.first
        return self._replicas if key is None else self._replicas.options(multiplexed_model_id=key)

    async def _learn(self) -> None:
        """Asks a replica which artifacts there are. If that fails, the next response is the next try."""
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
        from ray.serve.exceptions import RayServeException  # pyright: ignore[reportMissingImports]

        try:
            self._names = await self._replicas.names.remote()
        except (RayError, RayServeException) as error:
            log.warning("the artifacts of the replicas are not known: %s", error)
        finally:
            await asyncio.sleep(PAUSE_S)  # while replicas change one by one, they contradict each other
            self._learning = None


def sent(answered: Answered) -> Response:
    """The response of a replica, byte for byte."""
    response = Response(answered.body, answered.status)
    response.raw_headers = list(answered.headers)
    return response
