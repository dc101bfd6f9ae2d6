"""What an endpoint needs besides its request: models, settings, threads, metrics. One per
application, in `app.state`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .errors import ApiError
from .execution import Workshop
from .logs import log_inputs
from .metrics.prometheus import Metrics
from .metrics.state import State
from .models.adapter_loading import Loader
from .models.registry import Registry, Served
from .responses import answer_id
from .settings import Settings


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
        """A route that no served model can answer does not exist: 404, as on a vLLM
        that never registered it."""
        self.opened()
        if ability not in self.registry.abilities:
            raise HTTPException(404)

    def opened(self) -> None:
        if not self.registry.ready.is_set():
            raise ApiError(
                503,
                ("the models are still being loaded; /ready tells when they are"),
                headers={"Retry-After": "1"},
            )

    def log_inputs(
        self, prefix: str, request: Request, record: object, served: Served, inputs: Sequence[Any]
    ) -> None:
        if self.settings.log_requests:
            log_inputs(answer_id(prefix, request, record), served.name, inputs, self.settings.max_log_length)


def context_of(request: Request) -> Context:
    return request.app.state.context
