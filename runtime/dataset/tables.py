"""Readers of files with types of their own: Parquet and Lance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError, reason
from .rows import PIECE_BYTES, PIECE_ROWS, Piece, Source, Survey

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 256
"""Rows that are decoded together."""


class ParquetReader:
    def survey(self, path: str, column: str) -> Survey:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                return Survey(file.metadata.num_rows, checked(file.schema_arrow, column, path))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not readable as Parquet ({reason(error)})", field="input") from None

    def pieces(self, source: Source, begin: int, end: int, column: str, schema: pa.Schema) -> Iterator[Piece]:
        import pyarrow.parquet as pq

        # Without memory_map and pre_buffer only pages of a batch are in memory, however large a row group.
        with pq.ParquetFile(source.path, memory_map=False, pre_buffer=False) as file:
            names = [name for name in file.schema_arrow.names if name == column or name in schema.names]
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > begin and first < end:
                    batches = file.iter_batches(BATCH, row_groups=[group], columns=names)
                    yield from _cut(batches, first, begin, end, source, column, schema)
                first += rows


class LanceReader:
    def survey(self, path: str, column: str) -> Survey:
        dataset = opened_lance(path)
        return Survey(dataset.count_rows(), checked(dataset.schema, column, path))

    def pieces(self, source: Source, begin: int, end: int, column: str, schema: pa.Schema) -> Iterator[Piece]:
        dataset = opened_lance(source.path, version=source.modified_ns)
        names = [name for name in dataset.schema.names if name == column or name in schema.names]
        batches = dataset.scanner(
            columns=names, offset=begin, limit=end - begin, batch_size=BATCH, scan_in_order=True
        ).to_batches()
        yield from _cut(batches, begin, begin, end, source, column, schema)


def opened_lance(path: str, version: int | None = None) -> Any:
    """The dataset at `path`. Raises InputError, and ModuleNotFoundError without pylance."""
    import lance  # pyright: ignore[reportMissingImports] (an extra of its own)

    try:
        return lance.dataset(path, version=version)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: not readable as a Lance dataset ({reason(error)})", field="input"
        ) from None


def checked(schema: pa.Schema, column: str, path: str) -> pa.Schema:
    """The schema of a file that has the column. Raises InputError for one that has not, or whose column can
    hold neither texts nor pictures."""
    import pyarrow as pa

    if column not in schema.names:
        known = ", ".join(schema.names[:20])
        raise InputError(f"--column {column}: {path} has no such column; it has {known}", field="column")
    kind = schema.field(column).type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    pictures = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (
        texts
        or pictures
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_null(kind)
    ):
        raise InputError(
            f"--column {column}: {path} has {kind} there, expected text, or pictures as bytes", field="column"
        )
    return schema


def _cut(
    batches: Any, first: int, begin: int, end: int, source: Source, column: str, schema: pa.Schema
) -> Iterator[Piece]:
    """Pieces of the rows begin..end.

    Args:
        first: the number of the first row of the batches.
    """
    import pyarrow as pa

    gathered: list[pa.Table] = []
    rows = size = at = 0
    for batch in batches:
        start, stop = max(begin - first, 0), min(end - first, batch.num_rows)
        if start < stop:
            at = at if gathered else first + start
            part = pa.Table.from_batches([batch.slice(start, stop - start)])
            gathered.append(part)
            rows += part.num_rows
            size += part.column(column).nbytes
            if rows >= PIECE_ROWS or size >= PIECE_BYTES:
                yield _piece(pa.concat_tables(gathered), at, source, column, schema)
                gathered, rows, size = [], 0, 0
        first += batch.num_rows
        if first >= end:
            break
    if gathered:
        yield _piece(pa.concat_tables(gathered), at, source, column, schema)


def _piece(table: pa.Table, first: int, source: Source, column: str, schema: pa.Schema) -> Piece:
    values = [_value(value) for value in table.column(column).to_pylist()]
    where = [f"{source.path}, row {row}" for row in range(first + 1, first + len(values) + 1)]
    return Piece(values, aligned(table, schema, source.path), where)


def _value(value: Any) -> object:
    if isinstance(value, dict):  # Hugging Face's pictures: {"bytes": ..., "path": ...}
        value = value.get("bytes")
    return {"image": value} if isinstance(value, bytes) else value


def aligned(table: pa.Table, schema: pa.Schema, path: str) -> dict[str, Any]:
    """Name -> the columns of a schema, in its types; those that a table lacks are null. Raises InputError for
    values that do not fit."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for wanted in schema:
        if wanted.name not in table.column_names:
            columns[wanted.name] = pa.nulls(table.num_rows, wanted.type)
            continue
        values = table.column(wanted.name)
        try:
            columns[wanted.name] = values if values.type == wanted.type else values.cast(wanted.type)
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: column {wanted.name} is no {wanted.type} ({reason(error)}); leave it out with "
                "--keep",
                field="keep",
            ) from None
    return columns
