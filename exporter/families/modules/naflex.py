"""SigLIP 2's tower over patches of any grid (NaFlex)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LOWEST = -1e30
"""Added to scores that do not count. Finite, so that no row of a softmax is empty."""


class NaFlexTower(nn.Module):
    """Patches of a picture -> its embedding.

    `model`: transformers' Siglip2VisionModel with its head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        embeddings = model.embeddings
        self.layers, self.norm, self.head = model.encoder.layers, model.post_layernorm, model.head
        size, side = int(embeddings.patch_size), int(embeddings.position_embedding_size)
        linear = embeddings.patch_embedding
        # transformers' patches have red, green and blue of a pixel side by side, ours a plane of each.
        pixels = linear.weight.detach().unflatten(1, (size, size, -1)).permute(0, 3, 1, 2).flatten(1)
        self.weight, self.bias = nn.Parameter(pixels.contiguous(), requires_grad=False), linear.bias
        self.table = embeddings.position_embedding.weight
        self.source = nn.Buffer(torch.arange(side, dtype=torch.float32), persistent=False)

    def forward(
        self, pixel_values: torch.Tensor, patch_positions: torch.Tensor, patch_mask: torch.Tensor
    ) -> torch.Tensor:
        """Computes embeddings.

        Args:
            pixel_values: [batch, patches, channels * size * size].
            patch_positions: [batch, patches, 4], row, column, rows and columns of the picture's grid.
            patch_mask: [batch, patches], 0 where a patch belongs to no picture.

        Returns:
            [batch, width].
        """
        states = nn.functional.linear(pixel_values, self.weight, self.bias) + self.places(patch_positions)
        mask = torch.where(patch_mask[:, None, None, :] != 0, 0.0, LOWEST)
        square = mask.expand(-1, -1, patch_mask.shape[1], -1)
        for layer in self.layers:
            states = layer(states, square)
        return self.pooled(self.norm(states), mask)

    def places(self, patch_positions: torch.Tensor) -> torch.Tensor:
        """The table of positions, scaled to each picture's grid by antialiased triangles,
        [batch, patches, width]."""
        down, across = (
            self._weights(patch_positions[..., axis], patch_positions[..., axis + 2]) for axis in (0, 1)
        )
        return (down.unsqueeze(-1) * across.unsqueeze(-2)).flatten(-2) @ self.table

    def _weights(self, place: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """[batch, patches, side of the table]: shares of its rows (or columns) at `place` of `size`."""
        # Patches of no picture have size 0.
        scale = len(self.source) / size.clamp(min=1).float()
        center = (place.float() + 0.5) * scale - 0.5
        distance = (self.source - center.unsqueeze(-1)).abs() / scale.clamp(min=1).unsqueeze(-1)
        weights = (1 - distance).clamp(min=0)
        return weights / weights.sum(-1, keepdim=True)

    def pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The head: one learned query attends to all patches. `mask`: [batch, 1, 1, patches]."""
        head: Any = self.head
        attention, count = head.attention, int(head.num_heads)
        weights = attention.in_proj_weight.chunk(3)
        biases = attention.in_proj_bias.chunk(3)
        query, key, value = (
            nn.functional.linear(source, weight, bias).unflatten(-1, (count, -1)).transpose(1, 2)
            for source, weight, bias in zip((head.probe, states, states), weights, biases, strict=True)
        )
        query = query.expand(states.shape[0], -1, -1, -1)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        vector = attention.out_proj(seen.transpose(1, 2).flatten(-2))
        return (vector + head.mlp(head.layernorm(vector)))[:, 0]
