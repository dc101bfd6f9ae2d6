"""How a processor's threads are shared by batches that run side by side (docs/decisions/lanes.md)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..artifact.manifest import PAST, Graph
from ..errors import EngineError
from .table import Arrays

log = logging.getLogger("poolrt.engines")

Opened = TypeVar("Opened")

# Lanes compute batches side by side, ideally one thread each. Threads that share a batch wait for the slowest
# of them at the end of every node (measured in docs/decisions/lanes.md). The number is limited because each
# lane holds the activations of its batch.
MAX_LANES = 8
# Graphs up to this size are opened twice: with few threads for the lanes, and with all threads for a batch
# that runs alone.
TWICE_BYTES = 256 << 20
# A batch that runs alone gets all threads if it has at least this many slots (rows x tokens). A single short
# text is computed as fast by one thread, for less.
WIDE_SLOTS = 64


def stored_bytes(path: Path, graph: Graph) -> int:
    """The size of a graph with its external weights."""
    return sum(path.with_name(name).stat().st_size for name in (path.name, *graph.external))


def slots(inputs: Arrays) -> int:
    """Of a batch; its prefix does not count."""
    return max((array.size for name, array in inputs.items() if name != PAST), default=0)


AFTER = 8
"""Batches that ran alone before a second session is opened for them. Those that warm a model up, and all that
a short process computes, do not share the processor with its opening."""


class Later(Generic[Opened]):
    """A session that a model can do without at first: a thread of its own opens it."""

    def __init__(self, open: Callable[[], Opened], *, after: int = AFTER, at_once: bool = False) -> None:
        """`after` is how often `get` returns None before the opening begins. `at_once` opens it here and now,
        and raises what `open` raises."""
        self._open = open
        self._after = after
        self._lock = threading.Lock()
        self._missed = 0
        self._closed = False
        self._opened: Opened | None = open() if at_once else None

    def get(self, weight: int = 1) -> Opened | None:
        """None while it is not open. `weight`: of a call that counts as several."""
        if self._opened is None and self._missed <= self._after:
            with self._lock:
                begins = self._missed <= self._after < self._missed + weight and not self._closed
                self._missed += weight
            if begins:
                # Not a daemon, as the worker's threads are: Python would end it inside the library, which
                # aborts the process.
                threading.Thread(target=self._run, name="poolrt-later", daemon=False).start()
        return self._opened

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._opened = None

    def _run(self) -> None:
        try:
            opened = self._open()
        except EngineError as error:
            log.warning("batches are computed more slowly, by the session that is open: %s", error)
            return
        with self._lock:
            if not self._closed:
                self._opened = opened
