"""What an endpoint needs besides its request: models, settings, threads, metrics. An application has one, in
`app.state.context`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .batches.batches import Batches
from .errors import ApiError
from .execution import Workshop
from .logs import log_inputs
from .metrics.prometheus import Metrics
from .metrics.state import State
from .models.adapter_loading import Loader
from .models.artifact_loading import ArtifactLoader
from .models.registry import Registry, Served
from .models.shared_loading import SharedLoader
from .models.watching import WatchedFolder
from .responses import answer_id
from .settings import Settings

if TYPE_CHECKING:
    from .tracing.spans import Tracing


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    registry: Registry
    state: State
    metrics: Metrics
    workshop: Workshop
    loader: Loader | None = None
    """Loads LoRA adapters; None: requests may not load any."""
    tracing: Tracing | None = None
    """Traces requests; None: they are not traced."""
    batches: Batches | None = None
    """Batch files; None: there are none."""
    artifacts: ArtifactLoader | SharedLoader | None = None
    """Loads, replaces and unloads artifacts; None: nobody may."""
    watched: WatchedFolder | None = None
    """The folder whose artifacts are followed; None: there is none."""

    def require(self, ability: str) -> None:
        """Raises HTTPException 404 for a route that no served model can answer: vLLM does not register such a
        route. Raises ApiError 503 while models are being loaded."""
        self.opened()
        if ability not in self.registry.abilities:
            raise HTTPException(404)

    def opened(self) -> None:
        """Raises ApiError 503 while models are being loaded."""
        if not self.registry.ready.is_set():
            raise ApiError(
                503,
                "the models are still being loaded; /ready tells when they are",
                headers={"Retry-After": "1"},
            )

    def log_inputs(
        self, prefix: str, request: Request, record: object, served: Served, inputs: Sequence[Any]
    ) -> None:
        """Logs the inputs of a request, with --enable-log-requests."""
        if self.settings.log_requests:
            log_inputs(answer_id(prefix, request, record), served.name, inputs, self.settings.max_log_length)


def context_of(request: Request) -> Context:
    return request.app.state.context
