"""Sends requests that begin alike to the same replica, which has computed their beginning before.

It is for decoders with a prefix cache, where Serve's own `PrefixCacheAffinityRouter` cannot be imported: it
comes with vLLM or SGLang.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from .exchange import Exchange


@functools.cache
def prefix_router() -> Any:
    """The class `PrefixRouter`, whose bases are Ray's."""
    from ray.serve import request_router as bases  # pyright: ignore[reportMissingImports]

    class PrefixRouter(bases.FIFOMixin, bases.LocalityMixin, bases.MultiplexMixin, bases.RequestRouter):
        """Ranks replicas by rendezvous hashing of a request's beginning: when a replica comes or goes, only
        its own share of the beginnings moves. A replica that is full passes the request on to the next."""

        async def choose_replicas(
            self, candidate_replicas: list[Any], pending_request: Any = None
        ) -> list[list[Any]]:
            if pending_request is not None:
                pending_request.routing_context.should_backoff = True
            prompt = "" if pending_request is None else prompt_of(pending_request.args)
            if not prompt or not candidate_replicas:
                return [candidate_replicas] if candidate_replicas else []

            def weighed(replica: Any) -> bytes:
                return weight(prompt, str(replica.replica_id.unique_id))

            return [[replica] for replica in sorted(candidate_replicas, key=weighed)]

    return PrefixRouter


def __getattr__(name: str) -> Any:
    """Serve imports the class by its name; ray is imported only then."""
    if name == "PrefixRouter":
        return prefix_router()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def prompt_of(arguments: Any) -> str:
    return next((value.prompt for value in arguments if isinstance(value, Exchange)), "")


def weight(prompt: str, replica: str) -> bytes:
    """The replica with the least weight is the first for this prompt."""
    return hashlib.blake2b(f"{replica}\0{prompt}".encode("utf-8", "replace"), digest_size=8).digest()
