"""vLLM's PoolerConfig: the keys of `LLM(pooler_config=...)` and `--pooler-config`, with its names and
errors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ..artifact.manifest import Pool, Task

Pooling = Literal["CLS", "LAST", "MEAN", "MAX", "MEAN_SQRT_LEN", "WEIGHTEDMEAN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolerConfig:
    """How a head pools. Raises ValueError for values that contradict each other."""

    task: Task | None = None
    pooling_type: Pooling | Literal["ALL", "STEP"] | None = None
    """Short for one of the next two."""
    seq_pooling_type: Pooling | None = None
    tok_pooling_type: Literal["ALL", "STEP"] | None = None
    use_activation: bool | None = None
    dimensions: int | None = None
    enable_chunked_processing: bool = False
    max_embed_len: int | None = None
    logit_mean: float | None = None
    logit_bias: float | None = None
    """Earlier name of logit_mean."""
    logit_sigma: float | None = None
    step_tag_id: int | None = None
    returned_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.pooling_type and (self.seq_pooling_type or self.tok_pooling_type):
            raise ValueError("pooling_type cannot be combined with seq_pooling_type or tok_pooling_type")
        if self.logit_mean is not None and self.logit_bias is not None:
            raise ValueError("logit_bias is the earlier name of logit_mean: give one of them")
        if self.logit_sigma == 0:
            raise ValueError("logit_sigma divides, so it cannot be 0")
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError("dimensions must be at least 1")

    @property
    def pool(self) -> Pool | None:
        """The pooling of a sequence, None where none is named."""
        pooling = self.seq_pooling_type or (
            self.pooling_type if self.pooling_type not in ("ALL", "STEP") else None
        )
        return None if pooling is None else pooling.lower()  # pyright: ignore[reportReturnType]

    @property
    def steps(self) -> bool:
        """Whether the head returns the scores of steps."""
        return "STEP" in (self.pooling_type, self.tok_pooling_type)

    @property
    def mean(self) -> float | None:
        """What is subtracted from a logit, under either name."""
        return self.logit_bias if self.logit_mean is None else self.logit_mean

    def changed(self) -> dict[str, object]:
        """Returns the keys that differ from the defaults, as `--pooler-config` takes them."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
