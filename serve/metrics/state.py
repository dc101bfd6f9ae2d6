"""The state of the running server, shared by the gate, the endpoints and the lifespan."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .peers import Peers


@dataclass(slots=True, eq=False)
class Epoch:
    """The time between two changes of the served models."""

    before: Epoch | None = None
    running: int = 0
    """Requests that came in this time and are being answered: the models that they may use stay open."""

    def is_over(self) -> bool:
        """Whether every request of this time and of those before has been answered."""
        if self.before is not None and self.before.is_over():
            self.before = None
        return self.running == 0 and self.before is None


@dataclass(slots=True)
class State:
    started: float = field(default_factory=time.time)
    stopping: bool = False
    """The server was told to stop: /ready says so. What open connections send is still answered."""
    draining: bool = False
    """New requests are refused, running ones finish."""
    peers: Peers | None = None
    """The other processes of this server; None: there are none."""
    failure: BaseException | None = None
    """Why the models could not be opened."""
    epoch: Epoch = field(default_factory=Epoch)
    in_flight: int = 0
    """HTTP requests of any kind."""
    load: int = 0
    """Inference requests that /load reports; counted with --enable-server-load-tracking."""

    def turn(self) -> Epoch:
        """Begins a new epoch, and returns the one that it ends."""
        ended = self.epoch
        self.epoch = Epoch(before=ended)
        return ended
