"""A checkpoint's settings, weights and tokenizer, as the families read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError
from ..base.refusals import shortened
from .tokenizer import TokenizerFiles
from .weights import Weights

MOST_COUNT = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What lies on disk, before anything is decided about a head."""

    source: str
    """Hub id, or the folder's own name."""
    folder: Path
    inner: Path
    """The folder of config.json, weights, tokenizer and processor: `folder`, or the subfolder that
    modules.json names (`0_Transformer`)."""
    config: Mapping[str, Any]
    """config.json with hf_overrides merged in, under transformers' names."""
    weights: Weights
    """With the adapter merged in, where there is one."""
    prefixes: tuple[str, ...]
    """Prefixes that the backbone's tensor names may have (`bert.`)."""
    text: TokenizerFiles
    classifies: bool = False
    """Whether a classifier of whole texts follows the backbone."""
    large: bool = False
    """Whether the model is too large for memory. Its weights then stay in their files, mapped, in the type
    they are stored in (exporter/graph/streaming.py)."""

    @property
    def parameters(self) -> int:
        """Elements of all tensors in the weight files."""
        return sum(math.prod(shape) for shape in self.weights.shapes.values())

    def number(self, key: str) -> int:
        """A count of config.json that the model needs. Raises CheckpointError for anything else."""
        value = self.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < MOST_COUNT:
            raise CheckpointError(
                f"{self.source}: config.json has no usable {key}: found {shortened(value)}, expected a count"
            )
        return value
