"""The other processes of a server with several (--api-server-count, --data-parallel-size), as one of them
sees them."""

from __future__ import annotations

from typing import Protocol


class Peers(Protocol):
    """Methods may be called in any thread."""

    @property
    def rank(self) -> int: ...

    @property
    def opens_first(self) -> bool:
        """Whether this process listens only once its models are open: others serve meanwhile."""
        ...

    def ready(self) -> bool:
        """Says that the models of this process are open. Returns whether it was the last one to say so."""
        ...

    def all_ready(self) -> bool:
        """Whether every process was ready once."""
        ...

    def metrics(self) -> bytes | None:
        """The metrics of all processes together; None where they cannot be asked. Waits for them."""
        ...
