"""Runs a bulk job: makes or finds its plan, computes the shards that are missing, and sums up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from .. import extras
from ..artifact import reading
from ..errors import InputError
from ..store import resolving
from . import plan as plans
from . import shard as shards
from .inputs import listed
from .meter import Meter, span
from .plan import Plan
from .settings import ROWS_PER_SHARD, Settings
from .shard import Computes, Counts

LOCK = ".lock"


class Workers(Protocol):
    """What computes the shards of a plan: this process, or actors of Ray."""

    def __call__(
        self, plan: Plan, missing: list[int], out: Path, done: Callable[[int], object]
    ) -> Iterator[Counts]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    out: Path
    shards: int
    computed: int
    """Shards of this call; the others were there."""
    seconds: float
    rows_per_s: float
    """Of this call."""
    counts: Counts
    """Of all shards."""

    def text(self) -> str:
        """For people."""
        counts = self.counts
        wrong = {
            "without a value": counts.null,
            "no text": counts.not_text,
            "unreadable": counts.unreadable,
            "refused by the model": counts.refused,
        }
        lines = [f"{counts.written:,} of {counts.rows:,} rows are in {self.shards} shards of {self.out}"]
        lines += [f"  {count:,} {why}" for why, count in wrong.items() if count]
        lines += [f"  {counts.truncated:,} cut to the model's limit"] if counts.truncated else []
        if self.computed:
            lines.append(f"{self.computed} shards in {span(self.seconds)}, {self.rows_per_s:,.1f} rows/s")
        else:
            lines.append("nothing was left to compute")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        counts = self.counts
        return {
            "out": str(self.out),
            "shards": self.shards,
            "computed_shards": self.computed,
            "rows": counts.rows,
            "written": counts.written,
            "wrong": {
                "null": counts.null,
                "not_text": counts.not_text,
                "unreadable": counts.unreadable,
                "refused": counts.refused,
            },
            "truncated": counts.truncated,
            "tokens": counts.tokens,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.rows_per_s, 1),
        }


def embed_dataset(
    pattern: str,
    artifact: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    workers: Workers | None = None,
    overwrite: bool = False,
    progress: TextIO | None = sys.stderr,
    threads: int | None = None,
) -> Summary:
    """Computes every row of an input into shards of Parquet in a folder. A call on a folder that has shards
    of the same job computes those that are missing. Raises InputError, ArtifactError and EngineError.

    Args:
        pattern: a file, a folder or a glob of Parquet, JSONL, CSV, Lance or pictures.
        artifact: folder, stored name or address of the model.
        settings: None: the defaults, with `path` as the column of pictures.
        workers: what computes; None: this process, with one model.
        overwrite: begin anew in a folder that has another job.
        progress: where progress is written; None: nowhere.
        threads: of the engine in this process.
    """
    extras.require("dataset")
    artifact = resolving.artifact(artifact)
    folder, opened = Path(out), reading.read(artifact, check="once")
    digest = opened.manifest.digest
    if settings is None:
        settings = Settings(column="path" if listed(pattern)[0] == "pictures" else "text")
    shards.head_of(opened.manifest, settings.task)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if overwrite:
            _clear(folder)
        plan = plans.opened(folder)
        if plan is None:
            _refuse_foreign(folder)
            plan = plans.made(pattern, opened.manifest.name, digest, settings, looked_at=_looking(progress))
            plans.save(plan, folder)
        else:
            plans.refuse_changes(plan, pattern, digest, settings, folder)
            if plan.settings.on_error != settings.on_error:
                plan = dataclasses.replace(plan, facts=dataclasses.replace(plan.facts, settings=settings))
                plans.save(plan, folder)
        for partial in folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        counts = _finished(plan, folder)
        missing = [shard for shard in range(plan.shards) if shard not in counts]
        total = Counts()
        for own in counts.values():
            total.add(own)
        meter = Meter(plan.facts.rows, total.rows, file=progress)
        computing = workers or InProcess(opened.folder, threads)
        try:
            for own in computing(plan, missing, folder, meter.add) if missing else ():
                total.add(own)
        finally:
            meter.close()
    return Summary(
        out=folder,
        shards=plan.shards,
        computed=len(missing),
        seconds=meter.seconds,
        rows_per_s=meter.rate if missing else 0.0,
        counts=total,
    )


@dataclass(frozen=True, slots=True)
class InProcess:
    """Computes the shards here, one after the other."""

    artifact: Path
    threads: int | None = None

    def __call__(
        self, plan: Plan, missing: list[int], out: Path, done: Callable[[int], object]
    ) -> Iterator[Counts]:
        with opened_model(self.artifact, plan, self.threads) as model:
            for shard in missing:
                yield shards.compute(plan, shard, model, out, done=done)


@contextlib.contextmanager
def opened_model(artifact: Path, plan: Plan, threads: int | None = None) -> Iterator[Computes]:
    """The model of a plan, which takes its options. Raises InputError."""
    from ..loader import load

    with load(artifact, plan.settings.engine, threads=threads) as model:
        if model.manifest.digest != plan.facts.digest:
            raise InputError(f"{artifact} is another model than the plan was made for; copy that one here")
        shards.refuse_settings(model, plan.settings, reads_text=plan.facts.kind != "pictures")
        yield model


def rows_per_shard(out: Path, wanted: int | None) -> int:
    """The rows of a shard without --rows-per-shard: those of the plan in its folder, if it has one."""
    if wanted is not None:
        return wanted
    plan = plans.opened(out)
    return ROWS_PER_SHARD if plan is None else plan.settings.rows_per_shard


def _finished(plan: Plan, out: Path) -> dict[int, Counts]:
    """The shards that are there, and what they count. Raises InputError for one of another plan."""
    counts: dict[int, Counts] = {}
    for shard in sorted(plans.shards_there(plan, out)):
        path = out / plan.name(shard)
        about = shards.about(path)
        if about.plan != plan.identity:
            raise InputError(
                f"{path}: a shard of another job; give another --out, or --overwrite", field="out"
            )
        counts[shard] = about.counts
    return counts


def _refuse_foreign(out: Path) -> None:
    """Raises InputError for a folder with files that no job of ours wrote."""
    foreign = sorted(name for name in os.listdir(out) if not _ours(name))
    if foreign:
        raise InputError(
            f"--out {out} has files already ({', '.join(foreign[:5])}); give an empty folder", field="out"
        )


def _clear(out: Path) -> None:
    """Removes what an earlier job wrote, its plan first. Raises InputError where there are other files."""
    if plans.opened(out) is None:
        _refuse_foreign(out)
    for name in (plans.FILE, *sorted(os.listdir(out))):
        if _ours(name) or (name.startswith("part-") and name.endswith(".parquet")):
            (out / name).unlink(missing_ok=True)


def _ours(name: str) -> bool:
    return name in (plans.FILE, plans.INPUTS) or name.endswith(".partial")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds the folder. Raises InputError where another call holds it; a killed one holds nothing."""
    from filelock import FileLock, Timeout

    # Beside the folder: whoever reads the folder sees shards only.
    lock = FileLock(out.parent / f".{out.name}{LOCK}", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"--out {out}: another job writes there now", field="out") from None
    try:
        yield
    finally:
        lock.release()


def _looking(progress: TextIO | None) -> Callable[[int, int], object]:
    def show(done: int, files: int) -> None:
        if progress is not None and progress.isatty():
            print(f"\r\x1b[Kreading {done} of {files} files", end="\r", file=progress, flush=True)

    return show
