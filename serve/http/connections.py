"""All connections of a server: how long each may stay in its state, and which one goes
when there are too many.

One clock looks at all of them several times a second; a request costs it nothing. The
states and their limits:

    HEAD     a request's headers are awaited, from the connection's or the request's first byte     408,
    closed BODY     the rest of a request's body is awaited
    408, closed WORK     a request is being computed (`--request-timeout` bounds it)
    - IDLE     between two requests
    closed without a word LINGER   answered without reading all that was sent: what still comes is
    thrown away            closed

In each of them a client that does not take its answers is cut off: see `Unsent`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

HEAD, BODY, WORK, IDLE, LINGER = range(5)
SPARE = 32
"""Connections beyond the limit that are served health routes only, so that probes get through
when all others are at work."""
FILES = 64
"""File descriptors left for everything that is no connection."""
BODY_GRACE_S = 5.0
"""The application says by itself that a body is late; the clock is for one that does not listen."""
LINGER_QUIET_S = 5.0
"""How long a lingering connection may be silent."""
LEAST_BYTES_S = 16 * 1024
"""A client takes its answers faster than that, or is cut off."""
MOST_UNSENT = 256 * 1024 * 1024
"""Bytes of answers that wait for their clients, of all connections; beyond it those go
that have waited longest."""
EVICTED = 16
"""One in so many makes room when the limit is reached: a search through all of them is then rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Of one connection, and of all."""

    head_s: float = 60.0
    body_s: float = 60.0
    idle_s: float = 5.0
    write_s: float = 30.0
    """A client that takes nothing of its answers for so long is cut off."""
    linger_s: float = 30.0
    header_bytes: int = 64 * 1024
    header_count: int = 256
    waiting: int = 64
    """Requests that a client may send ahead of their answers; the connection ends after so many."""
    connections: int = 4096
    open_paths: frozenset[str] = frozenset()
    """What is served beyond the limit of connections."""

    def seconds(self, state: int) -> float:
        return (self.head_s, self.body_s + BODY_GRACE_S, math.inf, self.idle_s, self.linger_s)[state]

    @property
    def period_s(self) -> float:
        """Between two looks."""
        return min(
            0.5, max(0.02, min(self.head_s, self.body_s, self.idle_s, self.write_s, self.linger_s) / 4)
        )


def affordable(wanted: int) -> int:
    """So many connections, or as many as the process may have files open: beyond that a server accepts
    nobody, probes included."""
    try:
        import resource

        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        want = wanted + SPARE + FILES + 64
        if files < want and (most == resource.RLIM_INFINITY or files < most):
            files = want if most == resource.RLIM_INFINITY else min(want, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
        used = len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError, ValueError):  # no Unix
        return wanted
    return max(16, min(wanted, files - used - FILES - SPARE))


class Connection(Protocol):
    state: int
    since: float
    """When the clock first saw it in this state; 0: not yet."""

    def look(self, now: float) -> int:
        """Does what is due; returns the bytes of its answers that the client has not taken."""
        ...

    def evict(self) -> None: ...

    @property
    def unsent_since(self) -> float: ...


class Clock:
    """Of one server. Starts with the first connection and stops with the last."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.connections: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether there is room for it; where there was none, others may have gone for it."""
        most = self.limits.connections
        if len(self.connections) >= most:
            self._make_room()
        if len(self.connections) >= most + SPARE:
            return False
        self.connections.add(connection)
        if self._timer is None:
            self._timer = loop.call_later(self.limits.period_s, self._tick, loop)
        return True

    @property
    def full(self) -> bool:
        return len(self.connections) > self.limits.connections

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        waiting = {one: size for one in tuple(self.connections) if (size := one.look(now))}
        if sum(waiting.values()) > MOST_UNSENT:
            self._drop_unsent(waiting)
        self._timer = loop.call_later(self.limits.period_s, self._tick, loop) if self.connections else None

    def _drop_unsent(self, waiting: dict[Connection, int]) -> None:
        left = sum(waiting.values())
        for one in sorted(waiting, key=lambda one: one.unsent_since):
            if left <= MOST_UNSENT:
                return
            left -= waiting[one]
            one.evict()

    def _make_room(self) -> None:
        """Ends those that have waited longest for their client, who has his answer before who is between
        two, before who is sending."""
        order = (LINGER, IDLE, HEAD, BODY)
        idle: Iterable[Connection] = (one for one in self.connections if one.state != WORK)
        ranked = sorted(idle, key=lambda one: (order.index(one.state), one.since or math.inf))
        for one in ranked[: max(1, len(ranked) // EVICTED)]:
            self.connections.discard(one)
            one.evict()


class Unsent:
    """How long answers wait for a client that does not take them."""

    __slots__ = ("since", "size")

    def __init__(self) -> None:
        self.since = 0.0
        """Start of the present stretch; 0: everything is sent."""
        self.size = 0

    def stuck(self, now: float, size: int, limit_s: float) -> bool:
        """Whether the client has taken too little for too long. `size`: what it has to take yet."""
        if not size:
            self.since = 0.0
        elif not self.since:
            self.since, self.size = now, size
        elif now - self.since >= limit_s:
            if size > self.size - LEAST_BYTES_S * limit_s:
                return True
            self.since, self.size = now, size
        return False
