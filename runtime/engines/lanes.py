"""How a processor's threads are shared by batches that run side by side (docs/decisions/lanes.md)."""

from __future__ import annotations

from pathlib import Path

from ..artifact.manifest import PAST, Graph
from .table import Arrays

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
