"""What a bulk job is asked for: everything that decides the rows of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..artifact.manifest import RoleName

Task = Literal["embed", "token_embed", "sparse", "classify", "token_classify"]
OnError = Literal["fail", "skip", "null"]
Number = Literal["float32", "float16"]
ROWS_PER_SHARD = 10_000

COLUMNS: dict[Task, tuple[str, ...]] = {
    "embed": ("embedding",),
    "token_embed": ("token_embeddings",),
    "sparse": ("sparse_indices", "sparse_values"),
    "classify": ("scores", "label"),
    "token_classify": ("token_scores",),
}
"""Task -> the columns that it adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    column: str = "text"
    """Of the texts; of pictures the column that their paths are written to."""
    keep: tuple[str, ...] | None = None
    """Columns of the input that the output has too; None: all."""
    task: Task = "embed"
    numbers: Number = "float32"
    fixed_size: bool = False
    """Vectors as fixed-size lists, which vector databases read without looking at each row."""
    on_error: OnError = "fail"
    """What becomes of a row that has no text, or one that the model refuses: `fail` ends the job, `skip`
    leaves the row out, `null` writes it without a vector."""
    truncate: bool = True
    """Texts beyond the model's limit are cut; False: they are refused, so `on_error` decides."""
    dimensions: int | None = None
    role: RoleName | None = None
    prompt_name: str | None = None
    engine: str = "auto"
    rows_per_shard: int = ROWS_PER_SHARD


FLAGS = {
    "column": "--column",
    "keep": "--keep",
    "task": "--task",
    "numbers": "--dtype",
    "fixed_size": "--fixed-size-list",
    "on_error": "--on-error",
    "truncate": "--no-truncate",
    "dimensions": "--dimensions",
    "role": "--role",
    "prompt_name": "--prompt-name",
    "engine": "--engine",
    "rows_per_shard": "--rows-per-shard",
}
"""Field -> the flag that sets it."""
