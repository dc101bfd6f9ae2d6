"""Files and batches as OpenAI's API shows them, which is also how they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    """This time and all others: Unix seconds."""
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of requests. `failed` are those whose answers are in the file of errors."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchError:
    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchErrors:
    data: tuple[BatchError, ...]
    object: Literal["list"] = "list"


@dataclass(frozen=True, kw_only=True)
class Batch:
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    """Why the batch as a whole failed."""
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = field(default_factory=Counts)
    metadata: dict[str, str] | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ENDED
