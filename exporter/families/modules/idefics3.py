"""The tower of Idefics3 and SmolVLM over whole tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NEARLY_ONE = 1.0 - 1e-6


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
    """Tiles -> features: the last hidden states of the vision model, squares of patches as one row,
    projected.

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
