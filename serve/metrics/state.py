"""The state of the running server, shared by the gate, the endpoints and the lifespan."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .peers import Peers


@dataclass(slots=True)
class State:
    started: float = field(default_factory=time.time)
    draining: bool = False
    """New requests are refused, running ones finish."""
    peers: Peers | None = None
    """The other processes of this server; None: there are none."""
    failure: BaseException | None = None
    """Why the models could not be opened."""
    in_flight: int = 0
    """HTTP requests of any kind."""
    load: int = 0
    """Inference requests that /load reports; counted with --enable-server-load-tracking."""
