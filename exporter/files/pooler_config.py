"""`--pooler-config` as a record."""

from __future__ import annotations

from collections.abc import Mapping

from ...runtime.artifact.records import RecordError, from_plain
from ...runtime.errors import CheckpointError
from ...runtime.vllm.pooler_config import PoolerConfig

__all__ = ["PoolerConfig", "read"]


def read(asked: Mapping[str, object] | PoolerConfig | None) -> PoolerConfig:
    """Raises CheckpointError."""
    if isinstance(asked, PoolerConfig):
        return asked
    if asked and "normalize" in asked:
        raise CheckpointError("pooler config: `normalize` was renamed; use `use_activation`")
    try:
        return from_plain(PoolerConfig, dict(asked or {}))
    except RecordError as error:
        raise CheckpointError(f"pooler config: {error}") from None
