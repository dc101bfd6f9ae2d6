"""Times of the layers of a model and of the kinds of operators in its graph, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime import machine
from ...runtime.artifact.manifest import Graph, Manifest
from ...runtime.engines.feed import Feed
from ...runtime.engines.ort import SLOW_FUSIONS, library
from ..base.large import is_large_graph
from ..proof import verify
from . import layers

RUNS = 5
"""Runs that are counted, after one that is not."""
_KERNEL = "_kernel_time"
_CONTAINERS = ("If", "Loop", "Scan")
"""Their own time is that of the operators inside them, which the profiler lists too."""


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """What one batch takes, as the mean of the counted runs."""

    kinds: dict[str, float]
    """Kind of operator -> seconds, the slowest first."""
    layers: dict[str, float]
    """Layer -> seconds, in the order of the graph."""
    graph: str
    library: str
    texts: int
    tokens: int
    """Slots of the batch, padding included."""
    threads: int
    runs: int


def left_out(folder: Path, graph: Graph) -> str | None:
    """Why a graph is not run here; None: it is."""
    if graph.precision == "bf16":
        return "ONNX Runtime has no bf16 on processors"
    if is_large_graph(folder, graph):
        return "the graph is too large to be run whole on this machine"
    return None


def measured(folder: Path, manifest: Manifest, graph: Graph) -> OperatorTimes:
    """Runs the golden texts as one batch on this machine's processor."""
    ort = library()
    items = verify.golden_items(folder, manifest, large=False)
    inputs = Feed(graph.inputs, pad_id=manifest.text.pad_id).arrays(items)
    outputs = list(dict.fromkeys(head.output for head in manifest.heads.values()))
    with tempfile.TemporaryDirectory(prefix="poolrt-profile-") as workplace:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(workplace) / "run")
        options.intra_op_num_threads = threads = machine.cpus()
        options.log_severity_level = 3
        session = ort.InferenceSession(
            str(folder / graph.file),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOW_FUSIONS,
        )
        for _ in range(RUNS + 1):
            session.run(outputs, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    rows, width = inputs[graph.inputs[0].name].shape[:2]
    kinds, nodes = seconds_of(events)
    return OperatorTimes(
        kinds,
        layers_of(nodes, layers.of_nodes(folder / graph.file)),
        graph.file,
        f"onnxruntime {ort.__version__}",
        len(items),
        rows * width,
        threads,
        RUNS,
    )


def seconds_of(events: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of one run from the profiler's events, of each kind of operator and of each node; the first run
    is left out."""
    runs = sorted(event["ts"] + event["dur"] for event in events if event.get("name") == "model_run")
    warm, counted = runs[0], len(runs) - 1
    kinds: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for event in events:
        kind = event.get("args", {}).get("op_name", "")
        if event.get("cat") == "Node" and event["ts"] >= warm and kind and kind not in _CONTAINERS:
            seconds = event["dur"] / 1e6 / counted
            kinds[kind] += seconds
            nodes[event["name"].removesuffix(_KERNEL)] += seconds
    return dict(kinds.most_common()), dict(nodes)


def layers_of(nodes: Mapping[str, float], places: Mapping[str, str]) -> dict[str, float]:
    """Layer -> seconds, in the order of the graph.

    Args:
        nodes: name of a node -> seconds.
        places: name of a node -> its layer, in the order of the graph.
    """
    totals = dict.fromkeys(places.values(), 0.0)
    for name, seconds in nodes.items():
        layer = layers.of_event(name, places)
        totals[layer] = totals.get(layer, 0.0) + seconds
    return {layer: seconds for layer, seconds in totals.items() if seconds}
