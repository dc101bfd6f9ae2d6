"""The signature of all passes: `run(model, options)` rewrites the model in place and says what changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import onnx_ir as ir

LowPrecision = Literal["fp16", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOptions:
    """What passes must know that the graph does not say. Each pass reads the fields that concern it."""

    attends_all: bool = True
    """Whether every row that the graph returns attends to at least one key."""
    longest: int = 0
    """The most tokens of a text; 0: not known, and no form for long texts is wanted."""
    low: LowPrecision | None = None
    """Precision of the products that the mixed pass lowers; required by that pass only."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did to a graph."""

    changes: int
    """Places that were rewritten; 0: the graph is as it was."""


class Pass(Protocol):
    """A module of this folder that rewrites graphs."""

    def run(self, model: ir.Model, options: PassOptions) -> PassResult:
        """Rewrites `model` in place."""
        ...
