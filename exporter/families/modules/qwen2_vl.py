"""The two towers of Qwen2-VL (https://arxiv.org/abs/2409.12191) and Qwen2.5-VL
(https://arxiv.org/abs/2502.13923) with a forward that torch can trace.

Layers, norms and projections are those of transformers' models, as in modules/qwen3_vl.py. Most blocks of
Qwen2.5-VL attend within windows of a picture. The graph masks the rest in place of sorting patches by window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .qwen3_vl import LOWEST, attended, product, turns


class VisionTower(nn.Module):
    """Patches of pictures -> rows of features, one for merge * merge patches."""

    def __init__(self, visual: Any) -> None:
        """`visual`: transformers' Qwen2VisionTransformerPretrainedModel or
        Qwen2_5_VisionTransformerPretrainedModel, whose weights are shared."""
        super().__init__()
        config = visual.config
        self.patch_embed = product(visual.patch_embed.proj)
        self.blocks, self.merger = visual.blocks, visual.merger
        self.heads, self.merged = int(config.num_heads), int(config.spatial_merge_size) ** 2
        window = getattr(config, "window_size", None)
        self.window = None if window is None else side(window, config.patch_size, config.spatial_merge_size)
        self.whole = {int(index) for index in getattr(config, "fullatt_block_indexes", ())}
        self.frequencies = nn.Buffer(visual.rotary_pos_emb.inv_freq.float(), persistent=False)

    def forward(
        self, pixel_values: torch.Tensor, patch_positions: torch.Tensor, patch_mask: torch.Tensor
    ) -> torch.Tensor:
        """Computes features.

        Args:
            pixel_values: [batch, patches, channels * temporal * size * size].
            patch_positions: [batch, patches, 4], row, column, rows, columns, in the order of merged blocks.
            patch_mask: [batch, patches]; a patch with 0 is attended to by none.

        Returns:
            [batch, patches / merged, width].
        """
        hidden = self.patch_embed(pixel_values)
        cosine, sine = turns(patch_positions, self.frequencies)
        kept = patch_mask[:, None, None, :] != 0
        everywhere = torch.where(kept, 0.0, LOWEST)
        nearby = everywhere if self.window is None else windowed(patch_positions, kept, self.window)
        for number, block in enumerate(self.blocks):
            bias = everywhere if number in self.whole else nearby
            normed = block.norm1(hidden)
            hidden = hidden + attended(block.attn, self.heads, normed, cosine, sine, bias)
            hidden = hidden + block.mlp(block.norm2(hidden))
        merged = self.merger.ln_q(hidden).unflatten(1, (-1, self.merged)).flatten(2)
        return self.merger.mlp(merged)


class TextTower(nn.Module):
    """Token ids, and features of pictures in the place of some tokens -> hidden states of all tokens."""

    def __init__(self, model: Any) -> None:
        """`model`: transformers' Qwen2VLModel or Qwen2_5_VLModel."""
        super().__init__()
        language = model.language_model
        self.embed_tokens, self.layers, self.norm = language.embed_tokens, language.layers, language.norm
        config, rotary = language.config, language.rotary_emb
        self.kinds, self.reach = list(config.layer_types), config.sliding_window
        self.scaling = float(rotary.attention_scaling)
        self.beside = (model.visual,)
        """The vision tower of transformers: in a tuple, so that its weights are not this module's."""
        self.frequencies = nn.Buffer(rotary.inv_freq.float(), persistent=False)
        self.axis = nn.Buffer(axes(rotary.mrope_section), persistent=False)

    @property
    def visual(self) -> Any:
        """Transformers' vision tower."""
        return self.beside[0]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        features: torch.Tensor,
        feature_index: torch.Tensor,
        position_ids: torch.Tensor,
        **_: Any,
    ) -> torch.Tensor:
        """Computes hidden states.

        Args:
            input_ids, attention_mask: [batch, tokens].
            features: [features, hidden]; row 0 is zero.
            feature_index: [batch, tokens], row of a token's features; 0: it has none.
            position_ids: [batch, 3, tokens], places in time, height and width.

        Returns:
            [batch, tokens, hidden].
        """
        gathered = nn.functional.embedding(feature_index, features)
        hidden = torch.where((feature_index > 0).unsqueeze(-1), gathered, self.embed_tokens(input_ids))
        angles = position_ids.transpose(1, 2).index_select(-1, self.axis).float() * self.frequencies
        cosine, sine = (
            torch.cat((value, value), dim=-1) * self.scaling for value in (angles.cos(), angles.sin())
        )
        masks = {kind: self.mask(attention_mask, kind) for kind in dict.fromkeys(self.kinds)}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            hidden = layer(hidden, position_embeddings=(cosine, sine), attention_mask=masks[kind])
        return self.norm(hidden)

    def mask(self, attention_mask: torch.Tensor, kind: str) -> torch.Tensor:
        """[batch, 1, tokens, tokens], added to the scores: earlier tokens, or the last few of them."""
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        allowed = places[None, :] <= places[:, None]
        if kind == "sliding_attention":
            allowed = allowed & (places[:, None] - places[None, :] < self.reach)
        return torch.where((attention_mask[:, None, None, :] != 0) & allowed, 0.0, LOWEST)


def windowed(places: torch.Tensor, kept: torch.Tensor, window: int) -> torch.Tensor:
    """[batch, 1, patches, patches], added to the scores: a patch attends within its window.

    Args:
        places: [batch, patches, 4].
        kept: [batch, 1, 1, patches].
        window: patches of its side.
    """
    cells = torch.div(places[..., :2], window, rounding_mode="floor")
    same = (cells[:, :, None, :] == cells[:, None, :, :]).all(dim=-1)
    return torch.where(same[:, None] & kept, 0.0, LOWEST)


def axes(sections: list[int]) -> torch.Tensor:
    """Which of the three positions turns each frequency: time the first ones, then height, then width."""
    return torch.repeat_interleave(torch.arange(len(sections)) % 3, torch.tensor(sections))


def side(window: int, patch: int, merge: int) -> int:
    """Patches of a window's side. A window holds whole features."""
    return window // merge // patch * merge
