"""The request body that starts a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from .body import body
from .validation import Record

MOST_METADATA = 16


@dataclass(frozen=True, kw_only=True)
class BatchRequest(Record):
    input_file_id: str
    endpoint: Annotated[str, Field(description="the path that every line names, such as /v1/embeddings")]
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = None

    @staticmethod
    def check(fields: dict[str, Any]) -> str | None:
        if len(fields.get("metadata") or ()) > MOST_METADATA:
            return f"metadata: at most {MOST_METADATA} keys"
        return None


BATCH = body((("input_file_id", "endpoint"), BatchRequest))
