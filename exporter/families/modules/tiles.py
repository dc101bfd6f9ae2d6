"""Towers over tiles whose features are merged squares of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ....runtime.errors import CheckpointError


def shuffled(patches: torch.Tensor, factor: int) -> torch.Tensor:
    """[batch, side * side, width] -> [batch, (side / factor)^2, factor^2 * width]: each square of patches
    becomes one row, its patches by rows."""
    batch, count, width = patches.shape
    side = math.isqrt(count) // factor
    squares = patches.reshape(batch, side, factor, side, factor, width).transpose(2, 3)
    return squares.reshape(batch, side * side, factor * factor * width)


class ShuffledTower(nn.Module):
    """Tiles -> features: the last hidden states of a vision model, squares of patches as one row, and two
    layers behind a norm (InternVL's mlp1).

    Args:
        source: named by errors.
        weights: of `0` (norm), `1` and `3` (linear).
        wide, hidden: widths in front of the layers and behind them.
    """

    def __init__(
        self,
        source: str,
        tower: nn.Module,
        weights: Mapping[str, torch.Tensor],
        wide: int,
        hidden: int,
        factor: int,
    ) -> None:
        super().__init__()
        self.tower, self.factor = tower, factor
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        try:
            self.mlp1.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{source}: the weights do not fit mlp1: {reason}") from error

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> [batch, rows, width]"""
        return self.mlp1(shuffled(self.tower(pixel_values).last_hidden_state, self.factor))
