"""Computes one shard of a plan and writes it, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..answers.params import PoolingParams
from ..artifact.manifest import Manifest
from ..artifact.records import from_plain, to_plain
from ..errors import InputError
from ..inputs.preparation import Preparation
from ..outputs import Outputs, PoolingOutput
from .columns import Result, columns
from .inputs import bare, changes, state
from .plan import Plan, unfinished
from .rows import Piece, Unreadable
from .settings import Settings, Task

if TYPE_CHECKING:
    import pyarrow as pa

STEPS: dict[Task, int] = {"embed": 1024, "classify": 1024}
"""Rows that are computed together; 128 of the tasks whose results have a row for each token."""
STEP = 128
AHEAD = 2
"""Steps that are prepared and computed while another is written: the engine never waits for the disk."""
ABOUT = b"poolrt"
"""Key of a shard's own facts in the metadata of its file."""


class Computes(Protocol):
    """The part of a `Model` that a shard needs."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def preparation(self) -> Preparation: ...
    def encode(self, prompts: Any, pooling_params: Any = None, **options: Any) -> Outputs[PoolingOutput]: ...


@dataclass(slots=True, kw_only=True)
class Counts:
    """Rows of shards, and what became of them."""

    rows: int = 0
    """Of the input."""
    written: int = 0
    null: int = 0
    """Without a value, under --on-error skip or null; so are the next three."""
    not_text: int = 0
    unreadable: int = 0
    """Lines that are no record."""
    refused: int = 0
    """By the model: too long with --no-truncate, or a picture that cannot be decoded."""
    truncated: int = 0
    tokens: int = 0

    @property
    def wrong(self) -> int:
        return self.null + self.not_text + self.unreadable + self.refused

    def add(self, other: Counts) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a shard's file says of itself."""

    plan: str
    """The identity of its plan."""
    counts: Counts


def compute(
    plan: Plan, shard: int, model: Computes, out: Path, *, done: Callable[[int], object] = lambda rows: None
) -> Counts:
    """Computes a shard and writes its file. Raises InputError for a wrong row under `on_error="fail"`, and
    for a file that changed meanwhile.

    Args:
        done: called with each number of rows that were computed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = Counts()
    partial = unfinished(out / plan.name(shard))
    writer: Any = None
    try:
        with ThreadPoolExecutor(AHEAD) as threads, partial.open("wb") as file:
            for rows, table in _tables(plan, shard, model, counts, threads):
                if writer is None:
                    # Dictionaries of numbers that are all different only take time.
                    named: Any = [name for name in table.column_names if name in plan.schema.names]
                    writer = pq.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=named)
                writer.write_table(table)
                done(rows)
            if writer is None:
                empty = pa.table(_columns(Piece([], _no_rows(plan.schema)), [], plan.settings, model))
                writer = pq.ParquetWriter(file, empty.schema)
            about = About(plan=plan.identity, counts=counts)
            writer.add_key_value_metadata({ABOUT: json.dumps(to_plain(about))})
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        for source, _, _ in plan.files(shard):
            if difference := next(changes([bare(source)], [state(source.path, plan.facts.kind)]), None):
                raise InputError(
                    f"{difference}, while it was read; start again with --overwrite", field="input"
                )
        partial.replace(out / plan.name(shard))
    finally:
        partial.unlink(missing_ok=True)
    return counts


def about(path: Path) -> About:
    """What a finished shard says of itself. Raises InputError for a file that is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        return from_plain(About, json.loads((metadata.metadata or {})[ABOUT]))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: not the shard that poolrt wrote ({type(error).__name__}); remove it to have it "
            "computed again",
            field="out",
        ) from None


def refuse_settings(model: Computes, settings: Settings, *, reads_text: bool) -> None:
    """Raises InputError for options that this model refuses, before rows are counted as wrong for them."""
    head_of(model.manifest, settings.task)
    if reads_text:
        model.encode(["a"], _params(settings), **_options(settings, model.manifest))


def head_of(manifest: Manifest, task: Task) -> str:
    """The name of the head that a task runs. Raises InputError."""
    able = [
        name for name, head in manifest.heads.items() if (head.sparse if task == "sparse" else name == task)
    ]
    if not able:
        kinds = [
            *manifest.heads,
            *(["sparse"] if any(head.sparse for head in manifest.heads.values()) else []),
        ]
        raise InputError(f"--task {task}: {manifest.name} has none; it has {', '.join(kinds)}", field="task")
    return able[0]


def _tables(
    plan: Plan, shard: int, model: Computes, counts: Counts, threads: ThreadPoolExecutor
) -> Iterator[tuple[int, pa.Table]]:
    """(rows of the input, their table), in order. The next steps are computed meanwhile."""
    running: deque[Future[tuple[int, pa.Table, Counts]]] = deque()
    try:
        for step in _steps(plan, shard):
            running.append(threads.submit(_computed, step, plan.settings, model))
            if len(running) > AHEAD:
                yield _counted(running.popleft(), counts)
        while running:
            yield _counted(running.popleft(), counts)
    finally:
        for future in running:
            future.cancel()


def _counted(future: Future[tuple[int, pa.Table, Counts]], counts: Counts) -> tuple[int, pa.Table]:
    rows, table, own = future.result()
    counts.add(own)
    return rows, table


def _steps(plan: Plan, shard: int) -> Iterator[Piece]:
    step = STEPS.get(plan.settings.task, STEP)
    for piece in plan.pieces(shard):
        for begin in range(0, len(piece.values), step):
            end = begin + step
            kept = {name: column.slice(begin, step) for name, column in piece.kept.items()}
            yield Piece(piece.values[begin:end], kept, piece.where[begin:end])


def _computed(piece: Piece, settings: Settings, model: Computes) -> tuple[int, pa.Table, Counts]:
    import pyarrow as pa

    counts = Counts(rows=len(piece.values))
    good: list[int] = []
    for place, value in enumerate(piece.values):
        if (wrong := _wrong(value, counts)) is None:
            good.append(place)
        elif settings.on_error == "fail":
            raise InputError(f"{piece.where[place]}: {wrong}; {_CHOICES}", field=settings.column)
    results: list[Result | None] = [None] * len(piece.values)
    computed = _encoded([piece.values[place] for place in good], settings, model)
    for place, result in zip(good, computed, strict=True):
        if isinstance(result, InputError):
            if settings.on_error == "fail":
                raise InputError(f"{piece.where[place]}: {result}; {_CHOICES}", field=settings.column)
            counts.refused += 1
            continue
        results[place] = result
        counts.tokens += result.prompt_tokens
        counts.truncated += result.truncated
    if settings.on_error == "skip" and counts.wrong:
        places = [place for place, result in enumerate(results) if result is not None]
        kept = {name: column.take(pa.array(places, pa.int64())) for name, column in piece.kept.items()}
        piece, results = Piece([], kept), [results[place] for place in places]
    counts.written = len(results)
    return counts.rows, pa.table(_columns(piece, results, settings, model)), counts


_CHOICES = "mend it, or give --on-error skip or null"


def _wrong(value: object, counts: Counts) -> str | None:
    """Why a value is nothing that a model reads, counted; None: it is."""
    if value is None:
        counts.null += 1
        return "there is no value"
    if isinstance(value, Unreadable):
        counts.unreadable += 1
        return value.why
    if not isinstance(value, str | dict) or (isinstance(value, dict) and "image" not in value):
        counts.not_text += 1
        return f"expected a text, found {type(value).__name__}"
    return None


def _encoded(values: Sequence[object], settings: Settings, model: Computes) -> list[Result | InputError]:
    """The result of each value, or why the model refuses it. A refusal of several comes before anything is
    computed, so halves are tried until the refused ones stand alone."""
    if not values:
        return []
    try:
        outputs = model.encode(list(values), _params(settings), **_options(settings, model.manifest))
        return list(outputs.requests)
    except InputError as error:
        if len(values) == 1:
            return [error]
    half = len(values) // 2
    return [*_encoded(values[:half], settings, model), *_encoded(values[half:], settings, model)]


def _columns(
    piece: Piece, results: Sequence[Result | None], settings: Settings, model: Computes
) -> dict[str, Any]:
    head = model.manifest.heads[head_of(model.manifest, settings.task)]
    return piece.kept | columns(results, settings, head, model.preparation.encoder)


def _no_rows(schema: pa.Schema) -> dict[str, Any]:
    import pyarrow as pa

    return {field.name: pa.array([], field.type) for field in schema}


def _params(settings: Settings) -> PoolingParams | None:
    return None if settings.dimensions is None else PoolingParams(dimensions=settings.dimensions)


def _options(settings: Settings, manifest: Manifest) -> dict[str, Any]:
    return {
        "pooling_task": head_of(manifest, settings.task),
        "truncate_prompt_tokens": -1 if settings.truncate else None,
        "role": settings.role,
        "prompt_name": settings.prompt_name,
    }
