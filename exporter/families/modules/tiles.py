"""Towers over tiles whose features are merged squares of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ....runtime.errors import CheckpointError

NEARLY_ONE = 1.0 - 1e-6


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


def buckets(side: int, positions: int) -> torch.Tensor:
    """Rows of a table of `positions` * `positions` places for a tile of `side` * `side` patches, by rows
    [side * side].

    A patch at i / side belongs to the bucket whose lower bound, a multiple of 1 / positions, is the last one
    that does not exceed it. The sums are those of float32, which decide at the bounds.
    """
    bounds = torch.arange(1 / positions, 1.0, 1 / positions)
    places = torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))
    bucket = torch.bucketize(places.clamp(max=NEARLY_ONE), bounds, right=True)
    return (bucket[:, None] * positions + bucket[None, :]).flatten()


class Idefics3Tower(nn.Module):
    """Tiles -> features of Idefics3 and SmolVLM: the last hidden states of the vision model, squares of
    patches as one row, projected.

    Args:
        tower, connector: of transformers' Idefics3Model or SmolVLMModel.
        side: patches of a tile's side.
    """

    place: torch.Tensor

    def __init__(self, tower: Any, connector: nn.Module, side: int) -> None:
        super().__init__()
        self.tower, self.connector = tower, connector
        embeddings = tower.embeddings
        self.register_buffer("place", buckets(side, embeddings.num_patches_per_side), persistent=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> [batch, rows, width]"""
        embeddings = self.tower.embeddings
        states = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        states = states + embeddings.position_embedding(self.place)
        for layer in self.tower.encoder.layers:
            states = layer(states, None)
        return self.connector(self.tower.post_layernorm(states))
