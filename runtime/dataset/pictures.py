"""The reader of a folder of pictures: one row a picture, with its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .rows import Piece, Source

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
)
ROWS = 64
"""Pictures of a piece: a page takes megabytes once it is prepared."""


def schema(column: str) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(column, pa.string())])


def piece(sources: Sequence[Source], root: str, column: str, kept: pa.Schema) -> Piece:
    """The rows of these pictures.

    Args:
        root: the folder that paths are written relative to.
    """
    import pyarrow as pa

    names = [Path(source.path).relative_to(root).as_posix() for source in sources]
    columns = {column: pa.array(names, pa.string())} if column in kept.names else {}
    return Piece(
        [{"image": Path(source.path)} for source in sources], columns, [source.path for source in sources]
    )
