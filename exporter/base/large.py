"""Size limits: of a model held in memory, of a graph run as a whole, of weights in one file with their graph.

The weights of a large model stay in the checkpoint's files until each is used (graph/streaming.py). Its graph
is verified some nodes at a time (proof/sliced_graph.py), on fewer texts (proof/texts.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from ...runtime.artifact.manifest import Graph

SETTING = "POOLRT_STREAM_BYTES"
HOLD = f"{SETTING}=1000000000000"
"""The environment variable's value that holds every model in memory."""
# Bytes of float32 parameters: a smaller model, its traced copy and ONNX Runtime fit into 16 GB.
MODEL_BYTES = 4_000_000_000
# protobuf refuses 2 GiB, of which the graph itself takes some.
FILE_BYTES = 1_500_000_000


def is_large(parameters: int) -> bool:
    """Whether a model of so many parameters is too large for memory.

    POOLRT_STREAM_BYTES sets another limit, in bytes of float32. With 0 every model is too large.
    """
    return 4 * parameters >= int(os.environ.get(SETTING) or MODEL_BYTES)


def is_large_graph(folder: Path, graph: Graph) -> bool:
    """Whether a graph is too large to be run whole: its weights and ONNX Runtime's copies of them would not
    fit into memory."""
    stored = sum((folder / name).stat().st_size for name in graph.external)
    return (
        stored > 0 and graph.precision != "int8" and is_large(stored // (4 if graph.stored == "fp32" else 2))
    )


def is_large_file(size: int) -> bool:
    """Whether so many bytes of weights are too large for one file with their graph."""
    return size > FILE_BYTES
