"""The last requests of a server's connections, before it ends."""

from __future__ import annotations

import asyncio
import time

import uvicorn

from .protocol import Protocol

IDLE_S, FRESH_S = 1.0, 5.0
"""Seconds that a connection between two requests, and one that has sent none, gets to send its last one."""
LOOK_S = 0.05
"""Time between two checks whether all connections have sent it."""


def part(server: uvicorn.Server) -> None:
    """Has each connection end with its next response, which says so."""
    protocol: type[Protocol] = server.config.http_protocol_class  # pyright: ignore[reportAssignmentType]
    protocol.clock.parting = True
    for connection in _connections(server):
        if connection.cycle is not None:
            connection.cycle.keep_alive = False


async def last_requests(server: uvicorn.Server, *, idle_s: float, fresh_s: float) -> None:
    """Waits for the last request of each connection, or until the server is forced to end."""
    begun = time.monotonic()
    while not server.force_exit:
        await asyncio.sleep(LOOK_S)
        seconds = time.monotonic() - begun
        waiting = [connection for connection in _connections(server) if connection.is_waiting]
        if not any(seconds < (fresh_s if connection.is_fresh else idle_s) for connection in waiting):
            return


def _connections(server: uvicorn.Server) -> list[Protocol]:
    return [connection for connection in server.server_state.connections if isinstance(connection, Protocol)]
