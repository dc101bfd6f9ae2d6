"""Loads and unloads artifacts in all processes of a server.

The process that was asked passes the change on to the supervisor, which has every process prepare it (open
and warm the new model beside the old one), and then all make it, or, where one could not, all drop it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import ApiError
from .artifact_loading import ArtifactLoader
from .changes import Change, Loaded, Order, Refusal, Reply

log = logging.getLogger("poolrt.serve")


class Supervision(Protocol):
    """The supervisor, as one of its processes sees it. Methods wait for it, and may be called in any
    thread."""

    def change(self, change: Change) -> Reply:
        """Has all processes make a change. Returns what was loaded, None for an unload, or the refusal."""
        ...

    def missed(self) -> Sequence[Change]:
        """The changes that were made since the last call, at first since this process was started. When
        there is none, this process gets orders from then on."""
        ...

    def follow(self, obey: Callable[[Order], Reply]) -> None:
        """Calls `obey` for each order, in a thread."""
        ...

    def leave(self) -> None:
        """Ends what waits in `change` and `missed`."""
        ...


class SharedLoader:
    """The loader of one process among several. Called in the event loop.

    Args:
        own: changes what this process serves.
    """

    def __init__(self, own: ArtifactLoader, supervision: Supervision) -> None:
        self._own, self._supervision = own, supervision
        self._lock = asyncio.Lock()

    async def load(self, place: str, name: str | None = None) -> Loaded:
        """As `ArtifactLoader.load`, in every process or in none."""
        loaded = await self._changed(Change("load", name, place))
        assert isinstance(loaded, Loaded), "the reply to a load"
        return loaded

    async def unload(self, name: str) -> None:
        """As `ArtifactLoader.unload`, in every process or in none."""
        await self._changed(Change("unload", name))

    async def join(self) -> None:
        """Catches up with the other processes, and follows the supervisor's orders from then on. Raises
        ApiError."""
        loop = asyncio.get_running_loop()
        while changes := await asyncio.to_thread(self._supervision.missed):
            for change in changes:
                await self._own.make(change)
        self._supervision.follow(
            lambda order: asyncio.run_coroutine_threadsafe(self.obey(order), loop).result()
        )

    async def obey(self, order: Order) -> Reply:
        try:
            match order.step:
                case "prepare":
                    assert order.change is not None, "a change to prepare"
                    return await self._own.prepare(order.change)
                case "commit":
                    return self._own.commit()
                case "drop":
                    await self._own.drop()
                    return None
        except ApiError as error:
            return Refusal.of(error)
        except Exception:
            log.exception("%s of a change failed", order.step)
            return Refusal(500, "internal error; the server's log says why")

    def close(self) -> None:
        self._own.close()
        self._supervision.leave()

    async def _changed(self, change: Change) -> Reply:
        async with self._lock:  # one thread waits, however many requests do
            reply = await asyncio.to_thread(self._supervision.change, change)
        if isinstance(reply, Refusal):
            raise reply.error()
        return reply
