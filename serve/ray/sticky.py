"""Sends requests that begin alike to the same replica, which has computed their beginning before.

It is for decoders with a prefix cache. Serve's own `PrefixCacheAffinityRouter` cannot be imported without
vLLM or SGLang.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from .exchange import Exchange

AHEAD = 16
"""Requests that a replica may have more than the least busy one and still get those that begin alike."""


@functools.cache
def prefix_router() -> Any:
    """The class `PrefixRouter`, whose bases are Ray's."""
    from ray.serve import request_router as bases  # pyright: ignore[reportMissingImports]

    class PrefixRouter(bases.LocalityMixin, bases.MultiplexMixin, bases.RequestRouter):
        """Ranks replicas by rendezvous hashing of a request's beginning: when a replica comes or goes, only
        its own share of the beginnings moves. A replica that is much busier than another passes a request on
        to the next in rank. A request without a beginning goes to the least busy one."""

        async def choose_replicas(
            self, candidate_replicas: list[Any], pending_request: Any = None
        ) -> list[list[Any]]:
            model, prompt = "", ""
            if pending_request is not None:
                pending_request.routing_context.should_backoff = True
                model = pending_request.metadata.multiplexed_model_id
                prompt = prompt_of(pending_request.args)
            ranks = [candidate_replicas]
            if model:
                ranks = self.rank_replicas_via_multiplex(candidate_replicas, model)
            if not prompt:
                return [rank for rank in ranks if rank]
            lengths = {
                replica.replica_id: self.replica_queue_len_cache.get(replica.replica_id) or 0
                for replica in candidate_replicas
            }
            least = min(lengths.values(), default=0)

            def weighed(replica: Any) -> tuple[bool, bytes]:
                is_busy = lengths[replica.replica_id] - least >= AHEAD
                return is_busy, weight(prompt, str(replica.replica_id.unique_id))

            return [[replica] for rank in ranks for replica in sorted(rank, key=weighed)]

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
