"""The records that the readers of a job share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_ROWS = 1024
PIECE_BYTES = 4 << 20
"""A piece, the rows that are in memory together, ends with the first of both."""


class Unreadable:
    """In place of a text: a line of a file that is no record, or a value that is no text."""

    def __init__(self, why: str) -> None:
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of the input as it was when the job was planned."""

    path: str
    """Absolute."""
    size: int
    modified_ns: int
    """Time of modification; of a Lance dataset its version."""
    rows: int = 1
    marks: tuple[int, ...] = ()
    """Of JSONL and CSV: the byte at which each `MARK`-th row begins."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What looking at a whole file finds out."""

    rows: int
    schema: pa.Schema
    """Of its columns."""
    marks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that follow one another."""

    values: list[object]
    """What the model reads of each: a text, a picture as {"image": ...}, None, or Unreadable."""
    kept: dict[str, Any]
    """Name -> the column of the input, as the output has it."""
    where: list[str] = field(default_factory=list)
    """Where each row stands, for messages."""


class Reader(Protocol):
    """One format."""

    def survey(self, path: str, column: str) -> Survey:
        """Reads a file from end to end, in bounded memory. Raises InputError for one that is not of this
        format."""
        ...

    def pieces(self, source: Source, begin: int, end: int, column: str, schema: pa.Schema) -> Iterator[Piece]:
        """The rows begin..end of a file, in order.

        Args:
            schema: of the columns that are kept; one that a file lacks is null.
        """
        ...
