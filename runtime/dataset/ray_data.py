"""Computes the shards of a plan with Ray Data: actors hold one model each, on as many machines as the cluster
has. They write into the folder of the job, which all machines must share."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact.records import from_plain, to_plain
from ..errors import EngineError, InputError, PoolrtError
from . import plan as plans
from . import shard as shards
from .plan import Plan
from .shard import Computes, Counts

LONG = 8
"""Shards for each worker, from which on a job is long: a shard more or less at its end is little."""
Opening = Callable[[Path, Plan, int | None], contextlib.AbstractContextManager[Computes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a worker stopped, as it crosses from its process to this one."""

    message: str
    is_input: bool


@dataclass(frozen=True, slots=True)
class RayWorkers:
    """Actors of Ray Data, each with a model of its own.

    Args:
        address: of a cluster; None: the one that this process is part of, else a new one on this machine.
        workers: how many; None: what the cluster has room for.
        threads: of each model; None: its processors.
        opening: opens the model of a worker; None: that of the artifact.
    """

    artifact: Path
    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    threads: int | None = None
    opening: Opening | None = None

    def __call__(
        self, plan: Plan, missing: list[int], out: Path, done: Callable[[int], object]
    ) -> Iterator[Counts]:
        import ray  # pyright: ignore[reportMissingImports]

        began = not ray.is_initialized()
        if began:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield from self._counts(plan, missing, out, done)
        finally:
            if began:
                ray.shutdown()

    def _counts(
        self, plan: Plan, missing: list[int], out: Path, done: Callable[[int], object]
    ) -> Iterator[Counts]:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        workers = min(self._room(dict(ray.cluster_resources())), len(missing))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # A block is one shard, so whichever worker is free takes the next.
        rows = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
        computed = rows.map_batches(
            Worker,
            fn_constructor_args=(str(self.artifact), str(out.absolute()), self._threads, self.opening),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                size=workers, max_tasks_in_flight_per_actor=in_flight(len(missing), workers)
            ),
            num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )
        for row in computed.iter_rows():
            if row["failure"]:
                failure = from_plain(Failure, row["failure"])
                raise (InputError if failure.is_input else EngineError)(failure.message)
            counts = from_plain(Counts, {name: int(value) for name, value in row["counts"].items()})
            done(counts.rows)
            yield counts

    @property
    def _threads(self) -> int | None:
        return self.threads or (max(1, int(self.cpus)) if not self.gpus else None)

    def _room(self, resources: dict[str, Any]) -> int:
        """How many workers the cluster has room for."""
        if self.workers is not None:
            return self.workers
        room = [resources.get("CPU", 1.0) / self.cpus if self.cpus else math.inf]
        room += [resources.get("GPU", 0.0) / self.gpus] if self.gpus else []
        return max(1, int(min(room)))


def in_flight(shards: int, workers: int) -> int:
    """How many shards a worker has at a time, with the one that it computes.

    Ray Data looks for finished shards ten times a second, and a worker with a second shard does not wait for
    that. In a short job one worker would have two shards left while others have none.
    """
    return 2 if shards >= LONG * workers else 1


class Worker:
    """One actor: its model, and the plan as it is in the folder."""

    def __init__(self, artifact: str, out: str, threads: int | None, opening: Opening | None) -> None:
        # Imported before the first shard, not in it.
        import pyarrow.parquet  # noqa: F401

        from .job import opened_model

        self._out = Path(out)
        plan = plans.opened(self._out)
        if plan is None:
            raise InputError(f"{out} has no plan on this machine: --out must be a folder that all share")
        self._plan = plan
        self._held = contextlib.ExitStack()  # until the process of the actor ends
        self._model = self._held.enter_context((opening or opened_model)(Path(artifact), plan, threads))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Computes the shards of a batch. An error of ours comes back as a row: Ray would try it again, and
        hide it in a stack of its own."""
        results: list[Any] = []
        failures: list[Any] = []
        for shard in batch["shard"].tolist():
            try:
                results.append(_whole(shards.compute(self._plan, shard, self._model, self._out)))
                failures.append(None)
            except PoolrtError as error:
                failure = Failure(message=str(error), is_input=isinstance(error, InputError))
                results.append(None)
                failures.append({"message": failure.message, "is_input": failure.is_input})
        return {"counts": results, "failure": failures}


def _whole(counts: Counts) -> dict[str, int]:
    """Zeros included: every row that Ray passes on has the same fields."""
    return {**dict.fromkeys(Counts.__slots__, 0), **to_plain(counts)}
