"""From INPUT to the files of a job, in a fixed order, and what tells whether one has changed."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import EngineError, InputError
from . import pictures
from .lines import CsvReader, JsonReader
from .rows import Reader, Source
from .tables import LanceReader, ParquetReader, opened_lance

Kind = Literal["parquet", "jsonl", "csv", "lance", "pictures"]
SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".jsonl.gz": "jsonl", ".ndjson.gz": "jsonl", ".json.gz": "jsonl", ".csv": "csv", ".csv.gz": "csv",
    ".tsv": "csv", ".tsv.gz": "csv", ".lance": "lance", **dict.fromkeys(pictures.SUFFIXES, "pictures"),
}  # fmt: skip
READERS: dict[Kind, Reader] = {
    "parquet": ParquetReader(),
    "jsonl": JsonReader(),
    "csv": CsvReader(),
    "lance": LanceReader(),
}
KINDS = "Parquet, JSONL, CSV, Lance or pictures"


def listed(pattern: str) -> tuple[Kind, str, list[Source]]:
    """The kind of an input, the folder that its pictures' paths are relative to, and its files as they are
    now, without their rows. Raises InputError.

    Args:
        pattern: a file, a folder, or a glob (`**` is any folders).
    """
    path = Path(pattern).expanduser()
    if _is_lance(path):
        names = [str(path)]
    elif path.is_dir():
        names = sorted(_below(path))
    elif path.exists():
        names = [str(path)]
    else:
        names = sorted(name for name in glob.glob(str(path), recursive=True) if kind_of(name) is not None)
    kinds: dict[Kind, list[str]] = {}
    for name in names:
        kind = kind_of(name)
        if kind is not None:
            kinds.setdefault(kind, []).append(os.path.abspath(name))
    if not kinds:
        raise InputError(f"{pattern}: no file of {KINDS} there", field="input")
    if len(kinds) > 1:
        counts = ", ".join(f"{len(files)} of {kind}" for kind, files in kinds.items())
        raise InputError(
            f"{pattern}: files of several kinds ({counts}); name one kind, as '{pattern}/**/*.parquet'",
            field="input",
        )
    [(kind, files)] = kinds.items()
    if kind == "lance" and importlib.util.find_spec("lance") is None:
        raise EngineError(f"{pattern}: needs lance, which is not installed: pip install pylance")
    root = (
        str(path.absolute())
        if path.is_dir()
        else os.path.commonpath([os.path.dirname(name) for name in files])
    )
    return kind, root, [state(name, kind) for name in files]


def kind_of(name: str) -> Kind | None:
    """The kind of a file by its name."""
    suffixes = Path(name.lower()).suffixes
    return SUFFIXES.get("".join(suffixes[-2:])) or SUFFIXES.get("".join(suffixes[-1:]))


def state(name: str, kind: Kind) -> Source:
    """A file as it is now. Raises InputError."""
    if kind == "lance":
        return Source(path=name, size=0, modified_ns=int(opened_lance(name).version))
    try:
        status = os.stat(name)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})", field="input") from None
    return Source(path=name, size=status.st_size, modified_ns=status.st_mtime_ns)


def changes(before: list[Source], now: list[Source]) -> Iterator[str]:
    """What became of the files of an input, in words."""
    known, there = {source.path: source for source in before}, {source.path: source for source in now}
    for name in known.keys() - there.keys():
        yield f"{name} is gone"
    for name in there.keys() - known.keys():
        yield f"{name} is new"
    for name in known.keys() & there.keys():
        was, is_now = known[name], there[name]
        if was.size != is_now.size:
            yield f"{name} has {is_now.size} bytes, and had {was.size}"
        elif was.modified_ns != is_now.modified_ns:
            yield f"{name} was written again"


def bare(source: Source) -> Source:
    """A file without what was found in it."""
    return replace(source, rows=1, marks=())


def _is_lance(path: Path) -> bool:
    return path.is_dir() and (path.suffix == ".lance" or (path / "_versions").is_dir())


def _below(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        lance = [name for name in folders if name.endswith(".lance")]
        yield from (os.path.join(place, name) for name in lance)
        folders[:] = sorted(name for name in folders if name not in lance and not name.startswith((".", "_")))
        yield from (os.path.join(place, name) for name in files if not name.startswith((".", "_")))
