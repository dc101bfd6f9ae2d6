"""Readers of text files, plain or with gzip: JSONL and CSV.

They read record by record, so that a line that is no record is a wrong row and not the end of the job.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from ..errors import InputError, reason
from .rows import PIECE_BYTES, PIECE_ROWS, Piece, Source, Survey, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

MARK = 1024
"""Rows between two places that reading can begin at."""
LONGEST = 1 << 30
"""Characters of a CSV field; the csv module's own limit of 131 072 is less than a long document."""
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?\d+\.\d*([eE][+-]?\d+)?|-?\d+[eE][+-]?\d+")

Record = dict[str, Any] | Unreadable


class JsonReader:
    def survey(self, path: str, column: str) -> Survey:
        return _surveyed(path, column, self._records(path, 0), csv_types=False)

    def pieces(self, source: Source, begin: int, end: int, column: str, schema: pa.Schema) -> Iterator[Piece]:
        records = self._records(source.path, _mark(source, begin))
        return _pieces(records, source, begin, end, column, schema)

    def _records(self, path: str, offset: int) -> Iterator[tuple[int, Record]]:
        """(the byte behind it, the record) of each line that is not blank."""
        with opened(path) as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                if line.strip():
                    yield offset, _json(line)


class CsvReader:
    def survey(self, path: str, column: str) -> Survey:
        return _surveyed(path, column, self._records(path, 0), csv_types=True)

    def pieces(self, source: Source, begin: int, end: int, column: str, schema: pa.Schema) -> Iterator[Piece]:
        records = self._records(source.path, _mark(source, begin))
        return _pieces(records, source, begin, end, column, schema)

    def _records(self, path: str, offset: int) -> Iterator[tuple[int, Record]]:
        """(the byte behind it, the record) of each row; offset 0 is that of the header."""
        csv.field_size_limit(LONGEST)
        separator = "\t" if path.removesuffix(".gz").endswith(".tsv") else ","
        with opened(path) as file:
            lines = _Lines(file)
            header = next(csv.reader(lines, delimiter=separator), [])
            if len(set(header)) < len(header):
                raise InputError(f"{path}: two columns have the same name", field="input")
            yield lines.offset, dict.fromkeys(header)
            if offset:
                file.seek(offset)
                lines.offset = offset
            rows = csv.reader(lines, delimiter=separator)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except (csv.Error, UnicodeDecodeError) as error:
                    yield lines.offset, Unreadable(f"no row of CSV ({reason(error)})")
                    rows = csv.reader(lines, delimiter=separator)
                    continue
                if not row:
                    continue
                if len(row) != len(header):
                    yield lines.offset, Unreadable(f"{len(row)} fields, and the header has {len(header)}")
                else:
                    yield lines.offset, dict(zip(header, row, strict=True))


class _Lines:
    """The lines of a file as text, and how many bytes of them were read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.offset = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        text = line[3:] if self.offset == 0 and line.startswith(b"\xef\xbb\xbf") else line
        self.offset += len(line)
        return text.decode()


def opened(path: str) -> IO[bytes]:
    """Raises InputError."""
    try:
        if path.endswith(".gz"):
            return cast(IO[bytes], io.BufferedReader(gzip.open(path)))  # pyright: ignore[reportArgumentType]
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", field="input") from None


def _json(line: bytes) -> Record:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"no line of JSON ({reason(error)})")
    return value if isinstance(value, dict) else Unreadable("a line of JSON that is no object")


def _mark(source: Source, row: int) -> int:
    """The byte at which reading for `row` begins."""
    return source.marks[row // MARK] if source.marks else 0


def _surveyed(path: str, column: str, records: Iterator[tuple[int, Record]], *, csv_types: bool) -> Survey:
    import pyarrow as pa

    rows, marks, schema = 0, [0], pa.schema([])
    block: list[dict[str, Any]] = []
    if csv_types:
        offset, header = next(records)
        assert isinstance(header, dict), "the header comes first"
        schema, marks = pa.schema([(name, pa.null()) for name in header]), [offset]
    for offset, record in records:
        rows += 1
        if rows % MARK == 0:
            marks.append(offset)
        if isinstance(record, dict):
            block.append(record)
        if len(block) == MARK:
            schema, block = _joined(schema, block, csv_types=csv_types), []
    schema = _joined(schema, block, csv_types=csv_types)
    if column not in schema.names:
        known = ", ".join(schema.names[:20]) or "none"
        raise InputError(f"--column {column}: {path} has no such column; it has {known}", field="column")
    # A column without a value has no type; text holds anything that may still come.
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema
    ]
    return Survey(rows, pa.schema(fields), tuple(marks))


def _joined(schema: pa.Schema, block: list[dict[str, Any]], *, csv_types: bool) -> pa.Schema:
    """The schema with what a block of records adds; a column of types that do not go together is text."""
    import pyarrow as pa

    names = list(dict.fromkeys([*schema.names, *(name for record in block for name in record)]))
    fields: list[pa.Field] = []
    for name in names:
        before = schema.field(name).type if name in schema.names else pa.null()
        values = [record.get(name) for record in block]
        if csv_types:
            values = [_typed(value) for value in values]
        try:
            kind = pa.infer_type(values, from_pandas=False)
            both = pa.unify_schemas(
                [pa.schema([(name, before)]), pa.schema([(name, kind)])], promote_options="permissive"
            )
            fields.append(both.field(name))
        except (pa.ArrowException, ValueError, OverflowError):
            fields.append(pa.field(name, pa.string()))
    return pa.schema(fields)


def _typed(text: str | None) -> object:
    """A field of CSV as the number that is written exactly so, else as text; None: an empty one."""
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _pieces(
    records: Iterator[tuple[int, Record]],
    source: Source,
    begin: int,
    end: int,
    column: str,
    schema: pa.Schema,
) -> Iterator[Piece]:
    is_csv = not source.path.removesuffix(".gz").endswith(("jsonl", "ndjson", "json"))
    if is_csv:
        next(records)  # the header
    gathered: list[Record] = []
    size, row, behind = 0, begin // MARK * MARK, _mark(source, begin)
    for offset, record in records:
        if row >= end:
            break
        if row >= begin:
            gathered.append(record)
            size += offset - behind
        behind, row = offset, row + 1
        if gathered and (len(gathered) == PIECE_ROWS or size >= PIECE_BYTES):
            yield _piece(gathered, row - len(gathered), source, column, schema, is_csv=is_csv)
            gathered, size = [], 0
    if gathered:
        yield _piece(gathered, row - len(gathered), source, column, schema, is_csv=is_csv)


def _piece(
    records: list[Record], first: int, source: Source, column: str, schema: pa.Schema, *, is_csv: bool
) -> Piece:
    import pyarrow as pa

    values: list[object] = [record.get(column) if isinstance(record, dict) else record for record in records]
    plain = [record if isinstance(record, dict) else {} for record in records]
    columns = {
        field.name: pa.array(
            [_fitted(record.get(field.name), field.type, is_csv) for record in plain], field.type
        )
        for field in schema
    }
    where = [f"{source.path}, row {row}" for row in range(first + 1, first + len(records) + 1)]
    return Piece(values, columns, where)


def _fitted(value: Any, kind: pa.DataType, is_csv: bool) -> object:
    """A value as a column of this type holds it."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _typed(value) if is_csv else value
