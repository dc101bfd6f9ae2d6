"""The plan of a bulk job: which rows of which files are in which shard. It is written once, before the first
shard, and read by every later call, so that all of them agree.

OUT/_plan.json has the options, OUT/_inputs.jsonl a line for each file. Readers of Parquet folders pass over
names with an underscore.
"""

from __future__ import annotations

import base64
import bisect
import dataclasses
import hashlib
import itertools
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact.records import RecordError, from_plain, to_plain
from ..errors import InputError
from . import pictures
from .inputs import READERS, Kind, bare, changes, listed
from .rows import Piece, Source
from .settings import COLUMNS, FLAGS, Settings

if TYPE_CHECKING:
    import pyarrow as pa

FILE, INPUTS = "_plan.json", "_inputs.jsonl"
FORMAT = 1
NAMED = 5
"""Changed files that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What OUT/_plan.json says."""

    format: int = FORMAT
    kind: Kind
    root: str
    model: str
    """The name of the artifact."""
    digest: str
    """sha256 of its manifest, which has those of all its files."""
    settings: Settings
    schema: str
    """Of the columns of the input that are kept, as Arrow writes a schema, in base64."""
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    facts: Facts
    sources: list[Source]
    begins: list[int]
    """The number of the first row of each file."""

    @property
    def settings(self) -> Settings:
        return self.facts.settings

    @property
    def shards(self) -> int:
        """How many there are; an input without a row has one, so that its columns are known."""
        return max(1, -(-self.facts.rows // self.settings.rows_per_shard))

    @property
    def identity(self) -> str:
        """What every shard of this plan says it belongs to."""
        facts = dataclasses.replace(self.facts, settings=dataclasses.replace(self.settings, on_error="fail"))
        digest = hashlib.sha256(json.dumps(to_plain(facts), sort_keys=True).encode())
        for source in self.sources:
            digest.update(f"{source.path}\0{source.size}\0{source.modified_ns}\n".encode())
        return digest.hexdigest()

    @property
    def schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.facts.schema)))

    def name(self, shard: int) -> str:
        return f"part-{shard:0{max(5, len(str(self.shards - 1)))}}.parquet"

    def span(self, shard: int) -> tuple[int, int]:
        """The first row of a shard and the one behind its last, in rows of the whole input."""
        begin = shard * self.settings.rows_per_shard
        return begin, min(begin + self.settings.rows_per_shard, self.facts.rows)

    def files(self, shard: int) -> Iterator[tuple[Source, int, int]]:
        """(file, first row, row behind the last) of what a shard reads, in rows of each file."""
        begin, end = self.span(shard)
        for place in range(max(bisect.bisect_right(self.begins, begin) - 1, 0), len(self.sources)):
            first = self.begins[place]
            if first >= end:
                break
            rows = self.sources[place].rows
            if first + rows > begin:
                yield self.sources[place], max(begin - first, 0), min(end - first, rows)

    def pieces(self, shard: int) -> Iterator[Piece]:
        """The rows of a shard, in order, a piece in memory at a time."""
        schema, column = self.schema, self.settings.column
        if self.facts.kind == "pictures":
            sources = (source for source, _, _ in self.files(shard))
            while several := list(itertools.islice(sources, pictures.ROWS)):
                yield pictures.piece(several, self.facts.root, column, schema)
            return
        for source, begin, end in self.files(shard):
            yield from READERS[self.facts.kind].pieces(source, begin, end, column, schema)


def opened(out: Path) -> Plan | None:
    """The plan in a folder; None: there is none. Raises InputError for one that cannot be read."""
    path = out / FILE
    try:
        facts = from_plain(Facts, json.loads(path.read_bytes()))
        with (out / INPUTS).open(encoding="utf-8") as lines:
            sources = [from_plain(Source, json.loads(line)) for line in lines]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecordError) as error:
        raise InputError(
            f"{path}: no plan that this poolrt reads ({error}); give another --out", field="out"
        ) from None
    return _plan(facts, sources)


def made(
    pattern: str,
    model: str,
    digest: str,
    settings: Settings,
    *,
    looked_at: Callable[[int, int], object] = lambda done, files: None,
) -> Plan:
    """The plan of a new job. Every text file is read from end to end, to count its rows. Raises InputError.

    Args:
        looked_at: called with the number of files that were read, and of all.
    """
    import pyarrow as pa

    kind, root, bare_sources = listed(pattern)
    if kind == "pictures":
        sources, schemas = bare_sources, [pictures.schema(settings.column)]
    else:
        sources, schemas = [], []
        for place, source in enumerate(bare_sources):
            survey = READERS[kind].survey(source.path, settings.column)
            sources.append(dataclasses.replace(source, rows=survey.rows, marks=survey.marks))
            schemas.append(survey.schema.remove_metadata())
            schemas = [_joined(schemas)]
            looked_at(place + 1, len(bare_sources))
    [schema] = schemas
    if settings.keep is not None and (
        unknown := [name for name in settings.keep if name not in schema.names]
    ):
        raise InputError(
            f"--keep {','.join(unknown)}: no such column; the input has {', '.join(schema.names)}",
            field="keep",
        )
    kept = pa.schema([field for field in schema if settings.keep is None or field.name in settings.keep])
    if taken := [name for name in COLUMNS[settings.task] if name in kept.names]:
        raise InputError(
            f"the input has a column {', '.join(taken)} already, which --task {settings.task} writes; leave "
            "it out with --keep",
            field="keep",
        )
    facts = Facts(
        kind=kind,
        root=root,
        model=model,
        digest=digest,
        settings=settings,
        schema=base64.b64encode(kept.serialize()).decode(),
        rows=sum(source.rows for source in sources),
    )
    return _plan(facts, sources)


def save(plan: Plan, out: Path) -> None:
    """Writes the plan, its own file last, so that half a plan is none."""
    lines = (json.dumps(to_plain(source), ensure_ascii=False) for source in plan.sources)
    write(out / INPUTS, "".join(f"{line}\n" for line in lines).encode())
    write(out / FILE, json.dumps(to_plain(plan.facts), indent=1, ensure_ascii=False).encode())


def unfinished(path: Path) -> Path:
    """Where a file is written before it has its name; machines that share the folder never meet there."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


def write(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing."""
    partial = unfinished(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def refuse_changes(plan: Plan, pattern: str, digest: str, settings: Settings, out: Path) -> None:
    """Raises InputError that names everything in which a call differs from the plan of its folder: files,
    the model, options. Only `on_error` may change, as long as it was `fail`."""
    kind, _, sources = listed(pattern)
    differences = list(
        itertools.islice(changes([bare(source) for source in plan.sources], sources), NAMED + 1)
    )
    if len(differences) > NAMED:
        differences[NAMED:] = ["more files have changed"]
    if kind != plan.facts.kind:
        differences.append(f"the input was {plan.facts.kind}, and is {kind}")
    if digest != plan.facts.digest:
        differences.append(f"the model is another than {plan.facts.model} was")
    for field in dataclasses.fields(Settings):
        before, now = getattr(plan.settings, field.name), getattr(settings, field.name)
        if before != now and not (field.name == "on_error" and before == "fail"):
            differences.append(f"{FLAGS[field.name]} was {_shown(before)}, and is {_shown(now)}")
    if differences:
        raise InputError(
            f"{out} has the shards of another job: {'; '.join(differences)}. Give the same again, another "
            "--out, or --overwrite",
            field="out",
        )


def shards_there(plan: Plan, out: Path) -> set[int]:
    """The shards that are finished; a shard has its name only once it is whole."""
    pattern = re.compile(r"part-(\d+)\.parquet")
    return {int(match[1]) for name in os.listdir(out) if (match := pattern.fullmatch(name))} & set(
        range(plan.shards)
    )


def _plan(facts: Facts, sources: list[Source]) -> Plan:
    begins = [0, *itertools.accumulate(source.rows for source in sources)][: len(sources)]
    return Plan(facts, sources, begins)


def _joined(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all files. Raises InputError for a column whose types do not go together."""
    import pyarrow as pa

    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"the files do not have the same columns ({error}); name those that do", field="input"
        ) from None


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "not given" if value is None else str(value)
