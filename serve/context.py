"""What an endpoint needs besides its request: models, settings, threads, metrics. One per application, in `app.state`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..runtime import comparison
from ..runtime.outputs import Outputs, Ranking
from .answers import answer_id, heavy
from .errors import ApiError
from .loading import Loader
from .logs import log_inputs
from .metrics import Metrics
from .registry import Registry, Served
from .settings import Settings
from .state import State
from .work import Times, Workshop


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    registry: Registry
    state: State
    metrics: Metrics
    workshop: Workshop
    loader: Loader | None = None
    """Of adapters, where requests may load them."""

    def require(self, ability: str) -> None:
        """A route that no served model can answer does not exist: 404, as on a vLLM that never registered it."""
        self.opened()
        if ability not in self.registry.abilities:
            raise HTTPException(404)

    def opened(self) -> None:
        if not self.registry.ready.is_set():
            raise ApiError(503, "the models are still being loaded; /ready tells when they are", headers={"Retry-After": "1"})

    def log_inputs(self, prefix: str, request: Request, asked: object, served: Served, inputs: Sequence[Any]) -> None:
        if self.settings.log_requests:
            log_inputs(answer_id(prefix, request, asked), served.name, inputs, self.settings.max_log_length)

    def headers(self, times: Times, result: Outputs[Any] | Ranking) -> dict[str, str]:
        headers = times.headers() if self.settings.timing_headers else {}
        if result.truncated:
            headers["x-truncated"] = str(result.truncated)
        return headers

    @contextmanager
    def serialising(self, served: Served) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        observed = self.metrics.of(served.name)
        if observed is not None:
            observed.serialise.observe(time.perf_counter() - begun)

    async def written(self, served: Served, results: Sequence[Any], make: Callable[[], Response]) -> Response:
        """The response that `make` shapes of these results; outside the event loop where they are many or large."""
        with self.serialising(served):
            return await self.workshop.thread(make) if heavy(results) else make()

    def score_style(self, served: Served) -> dict[str, Any]:
        """How the texts of a score are prepared. A template given to the server is for cross-encoders only."""
        wanted, templated = self.settings.score_preparation, self.settings.chat_template is not None
        options: dict[str, Any] = {"preparation": comparison.style(served.manifest, wanted, templated=templated)}
        if served.manifest.scoring == "cross-encoder" and self.settings.chat_template is not None:
            options["chat_template"] = self.settings.chat_template
        return options


def context(request: Request) -> Context:
    return request.app.state.context
