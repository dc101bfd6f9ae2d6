"""How `poolrt embed-dataset --ray` scales: the same job with 1 to 8 workers on one machine.

    python -m bench.ray_scale          # in an environment with poolrt[cpu,ray]; writes docs/ray-scale.md

The engine is simulated: a batch takes the time that its rows say, asleep, so that eight workers need no eight
processors. Everything else is real: the plan, Ray Data, its actors, the shards on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from poolrt.runtime.artifact.manifest import Head
from poolrt.runtime.dataset import plan as plans
from poolrt.runtime.dataset.plan import Plan
from poolrt.runtime.dataset.ray_data import RayWorkers
from poolrt.runtime.dataset.settings import Settings
from poolrt.runtime.dataset.shard import Computes, Counts
from poolrt.runtime.outputs import Outputs, PoolingOutput, PoolingRequestOutput

PAGE = Path(__file__).parent.parent / "docs/ray-scale.md"
DIM = 64
ROW_S = 0.002
"""Engine time of a row, between that of a GPU and that of a processor."""
SHARD = 500
WORKERS = (1, 2, 4, 8)
LEAST = 0.9
"""Efficiency that the table must show."""


class Asleep:
    """A model whose engine sleeps."""

    def __init__(self) -> None:
        head = Head(output="out", dim=DIM, pool="mean", activation="l2")
        self.manifest: Any = SimpleNamespace(name="asleep", heads={"embed": head})
        self.preparation: Any = SimpleNamespace(encoder=None)
        self._engine = threading.Lock()

    def encode(self, prompts: Any, pooling_params: Any = None, **options: Any) -> Outputs[PoolingOutput]:
        with self._engine:  # one batch at a time
            time.sleep(ROW_S * len(prompts))
        data = np.zeros(DIM, np.float32)
        return Outputs(tuple(PoolingRequestOutput(PoolingOutput(data), [], 8) for _ in prompts))


@contextlib.contextmanager
def opening(artifact: Path, plan: Plan, threads: int | None) -> Iterator[Computes]:
    yield Asleep()


@dataclass(frozen=True, slots=True)
class Line:
    workers: int
    seconds: float
    """From the first row to the last: starting Ray and its actors takes the same time of any job."""
    whole_s: float
    rows: int

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


def measured(workers: int, rows_each: int, folder: Path) -> Line:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    rows = rows_each * workers
    source, out = folder / f"{workers}.parquet", folder / f"out{workers}"
    pq.write_table(pa.table({"text": [f"row {row}" for row in range(rows)]}), source)
    out.mkdir()
    plan = plans.made(str(source), "asleep", "", Settings(rows_per_shard=SHARD))
    plans.save(plan, out)
    begun = time.perf_counter()
    done = Counts()
    running = RayWorkers(folder, workers=workers, cpus=0.01, threads=1, opening=opening)
    for counts in running(plan, list(range(plan.shards)), out, lambda rows: None):
        done.add(counts)
    whole = time.perf_counter() - begun
    assert done.rows == rows, f"{done.rows} of {rows} rows"
    return Line(workers, first_to_last(out), whole, rows)


def first_to_last(out: Path) -> float:
    """Seconds from the beginning of the first shard to the end of the last, by their files."""
    ends = [path.stat().st_mtime for path in out.glob("part-*.parquet")]
    return max(ends) - min(ends) + SHARD * ROW_S


def table(lines: list[Line]) -> str:
    alone = lines[0].rate
    rows = [
        f"| {line.workers} | {line.rows:,} | {line.seconds:.1f} | {line.rate:,.0f} | "
        f"{line.rate / alone / line.workers:.2f} | {line.whole_s - line.seconds:.1f} |"
        for line in lines
    ]
    return "\n".join(
        [
            "| workers | rows | seconds | rows/s | efficiency | s to start Ray and its actors |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def main(arguments: list[str] | None = None, say: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=15_000, help="rows of each worker")
    options = parser.parse_args(arguments)
    import ray  # pyright: ignore[reportMissingImports]
    import ray.data  # pyright: ignore[reportMissingImports]

    # Eight processes that start on two processors do not start together; what is measured begins behind that.
    ray.data.DataContext.get_current().wait_for_min_actors_s = 300
    ray.init(num_cpus=max(WORKERS), log_to_driver=False, include_dashboard=False)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in WORKERS:
            lines.append(measured(workers, options.rows, Path(folder)))
            say(table(lines).splitlines()[-1])
    ray.shutdown()
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index("| workers |"), text.index("\n\n", text.index("| workers |"))
    PAGE.write_text(text[:begin] + table(lines) + text[end:], encoding="utf-8")
    return 0 if lines[-1].rate / lines[0].rate / lines[-1].workers >= LEAST else 1


if __name__ == "__main__":
    raise SystemExit(main())
