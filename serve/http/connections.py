"""All connections of a server: how long each may stay in its state, and which end when there are too many.

One clock checks all of them several times a second, so that a request sets no timer. A connection has one of
these states:

    state   the server waits for                                                     when the time is over
    HEAD    a request's headers, from the first byte of the connection or request    408, closed
    BODY    the rest of a request's body                                             408, closed
    WORK    the response (`--request-timeout` bounds it)                             -
    IDLE    the next request                                                         closed silently
    LINGER  the client's end, after a response to a request that was not read whole  closed

Bytes that arrive at a connection in LINGER are thrown away.

In each state the connection of a client that does not read its responses is closed: see `Unsent`.
"""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import dataclass
from typing import Protocol

HEAD, BODY, WORK, IDLE, LINGER = range(5)
SPARE = 32
"""Connections beyond the limit, for probes: they are served health routes only."""
FILES = 64
"""File descriptors kept for everything that is no connection."""
BODY_GRACE_S = 5.0
"""Time by which the clock is later than the application, which refuses a late body that it reads."""
LINGER_QUIET_S = 5.0
"""How long a lingering connection may be silent."""
LEAST_BYTES_S = 16 * 1024
"""Bytes per second that a client must read of its responses at least."""
MOST_UNSENT = 256 * 1024 * 1024
"""Bytes of responses that wait for clients, of all connections. Beyond it those that waited longest end."""
EVICTED = 16
"""At the limit one in so many connections is ended at once, so that the search for them is rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """ConnectionLimits of one connection, and of all connections together."""

    head_s: float = 60.0
    body_s: float = 60.0
    idle_s: float = 5.0
    write_s: float = 30.0
    """A client that reads nothing of its responses for so long is cut off."""
    linger_s: float = 30.0
    header_bytes: int = 64 * 1024
    header_count: int = 256
    waiting: int = 64
    """Requests that a client may send ahead of their responses. More end the connection."""
    connections: int = 4096
    open_paths: frozenset[str] = frozenset()
    """Paths that are served beyond the limit of connections."""

    def seconds(self, state: int) -> float:
        """Returns how long a connection may stay in a state."""
        return (self.head_s, self.body_s + BODY_GRACE_S, math.inf, self.idle_s, self.linger_s)[state]

    @property
    def period_s(self) -> float:
        """Time between two checks of all connections."""
        shortest = min(self.head_s, self.body_s, self.idle_s, self.write_s, self.linger_s)
        return min(0.5, max(0.02, shortest / 4))


def affordable(wanted: int) -> int:
    """Returns how many of the wanted connections the process may have, after raising its limit of open files.

    A server at that limit accepts no connection at all, those of probes included.
    """
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
        """Ends the connection where it is due. Returns the bytes of responses that are not sent yet."""
        ...

    def evict(self) -> None:
        """Ends the connection at once."""
        ...

    @property
    def unsent_since(self) -> float:
        """Since when the client has read too little; 0: everything is sent."""
        ...


class Clock:
    """Checks the connections of one server. Starts with the first connection and stops with the last."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.connections: set[Connection] = set()
        self.parting = False
        """The server stops: each connection ends with its next response."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> bool:
        """Adds a connection, and ends others to make room for it. Returns False where there is no room."""
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
        """Whether there are more connections than the limit, so that spare ones are in use."""
        return len(self.connections) > self.limits.connections

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        sizes = {connection: connection.look(now) for connection in tuple(self.connections)}
        unsent = {connection: size for connection, size in sizes.items() if size}
        if sum(unsent.values()) > MOST_UNSENT:
            self._drop_unsent(unsent)
        self._timer = loop.call_later(self.limits.period_s, self._tick, loop) if self.connections else None

    def _drop_unsent(self, unsent: dict[Connection, int]) -> None:
        left = sum(unsent.values())
        for connection in sorted(unsent, key=lambda connection: connection.unsent_since):
            if left <= MOST_UNSENT:
                return
            left -= unsent[connection]
            connection.evict()

    def _make_room(self) -> None:
        """Ends the connections that have waited longest for their clients.

        Those whose client has its response go first, then those between two requests, then those inside one.
        """
        order = (LINGER, IDLE, HEAD, BODY)
        idle = [connection for connection in self.connections if connection.state != WORK]
        idle.sort(key=lambda connection: (order.index(connection.state), connection.since or math.inf))
        for connection in idle[: max(1, len(idle) // EVICTED)]:
            self.connections.discard(connection)
            connection.evict()


class Unsent:
    """How long responses wait for a client that does not read them."""

    __slots__ = ("since", "size")

    def __init__(self) -> None:
        self.since = 0.0
        """Start of the present stretch of waiting; 0: everything is sent."""
        self.size = 0
        """Bytes that were unsent then."""

    def stuck(self, now: float, size: int, limit_s: float) -> bool:
        """Returns whether the client has read too little for `limit_s` seconds.

        Args:
            size: bytes that the client has yet to read.
        """
        if not size:
            self.since = 0.0
        elif not self.since:
            self.since, self.size = now, size
        elif now - self.since >= limit_s:
            if size > self.size - LEAST_BYTES_S * limit_s:
                return True
            self.since, self.size = now, size
        return False
