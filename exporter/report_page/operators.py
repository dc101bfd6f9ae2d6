"""Times of the kinds of operators in a graph, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime import machine
from ...runtime.artifact.manifest import Graph, Manifest
from ...runtime.engines.feed import Feed
from ...runtime.engines.ort import SLOW_FUSIONS, library
from ..base.large import is_large_graph
from ..proof import verify

RUNS = 5
"""Runs that are counted, after one that is not."""
_CONTAINERS = ("If", "Loop", "Scan")
"""Their own time is that of the operators inside them, which the profiler lists too."""


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """What one batch takes, as the mean of the counted runs."""

    seconds: dict[str, float]
    """Kind of operator -> seconds, the slowest first."""
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
    return OperatorTimes(
        seconds_of(events),
        graph.file,
        f"onnxruntime {ort.__version__}",
        len(items),
        rows * width,
        threads,
        RUNS,
    )


def seconds_of(events: list[dict[str, Any]]) -> dict[str, float]:
    """Kind of operator -> seconds of one run, from the profiler's events; the first run is left out."""
    runs = sorted(event["ts"] + event["dur"] for event in events if event.get("name") == "model_run")
    warm, counted = runs[0], len(runs) - 1
    totals: dict[str, float] = {}
    for event in events:
        kind = event.get("args", {}).get("op_name", "")
        if event.get("cat") == "Node" and event["ts"] >= warm and kind and kind not in _CONTAINERS:
            totals[kind] = totals.get(kind, 0.0) + event["dur"] / 1e6 / counted
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
