"""Qwen3-VL's two towers with a forward that torch can trace (https://arxiv.org/abs/2511.21631).

Layers, norms and projections are those of transformers' Qwen3VLModel. Its own forward splits tensors by the
sizes of the pictures, which no graph can. Here a picture, or one group of a video's frames, is a row of the
batch, and everything that depends on a patch's place is computed from `patch_positions`. The text tower takes
features of pictures by index, and computes rotary angles of three axes from `position_ids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# What a masked score is lowered by. It is finite, so that a row that attends to nothing has no NaN.
LOWEST = -1e30
# Heads whose scores exist at the same time. A page has 7200 patches: 16 heads at once take 3.3 GB in float32.
GROUP = 2


class VisionTower(nn.Module):
    """Patches of pictures -> rows of features, one for merge * merge patches.

    Deepstack levels lie behind the features: width = hidden * (1 + levels).
    """

    def __init__(self, visual: Any) -> None:
        """`visual`: transformers' Qwen3VLVisionModel or Qwen3_5VisionModel, whose weights are shared."""
        super().__init__()
        config = visual.config
        self.patch_embed = product(visual.patch_embed.proj)
        self.pos_embed, self.blocks = visual.pos_embed, visual.blocks
        self.merger = visual.merger
        self.indexes = deepstack(visual)
        self.deepstack: Any = visual.deepstack_merger_list if self.indexes else ()
        self.heads, self.merged = int(config.num_heads), int(config.spatial_merge_size) ** 2
        self.side = int(config.num_position_embeddings**0.5)
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
        hidden = self.patch_embed(pixel_values) + self.positions(patch_positions)
        cosine, sine = turns(patch_positions, self.frequencies)
        bias = torch.where(patch_mask[:, None, None, :] != 0, 0.0, LOWEST)
        deep: list[torch.Tensor] = []
        for number, block in enumerate(self.blocks):
            normed = block.norm1(hidden)
            hidden = hidden + attended(block.attn, self.heads, normed, cosine, sine, bias)
            hidden = hidden + block.mlp(block.norm2(hidden))
            if number in self.indexes:
                merger = self.deepstack[self.indexes.index(number)]
                deep.append(project(merger, merger.norm(self.blocked(hidden))))
        return torch.cat([project(self.merger, self.blocked(self.merger.norm(hidden))), *deep], dim=-1)

    def blocked(self, hidden: torch.Tensor) -> torch.Tensor:
        """[batch, patches, width] -> [batch, patches / merged, merged * width]."""
        return hidden.unflatten(1, (-1, self.merged)).flatten(2)

    def positions(self, places: torch.Tensor) -> torch.Tensor:
        """Position vectors [batch, patches, width]: a table of side * side rows, stretched over the picture.

        The corners of the table lie on the corners of the picture, and what lies between is bilinear.
        """
        index, size = places[..., :2].float(), places[..., 2:]
        source = index * (self.side - 1) / (size - 1).clamp(min=1)
        floor = torch.floor(source)
        share = source - floor  # of the next row or column
        low = floor.long().clamp(0, self.side - 1)
        high = (low + 1).clamp(max=self.side - 1)
        total = None
        for rows, rows_share in ((low, 1 - share), (high, share)):
            for columns, columns_share in ((low, 1 - share), (high, share)):
                taps = self.pos_embed(rows[..., 0] * self.side + columns[..., 1])
                weighted = taps * (rows_share[..., 0] * columns_share[..., 1])[..., None]
                total = weighted if total is None else total + weighted
        assert total is not None
        return total


class TextTower(nn.Module):
    """Token ids, and features of pictures in the place of some tokens -> hidden states of all tokens."""

    def __init__(self, model: Any, *, causal: bool, normed: bool) -> None:
        """Takes over transformers' model.

        Args:
            model: Qwen3VLModel or Qwen3_5Model.
            causal: whether a token attends to earlier ones only.
            normed: whether hidden states go through the last norm.
        """
        super().__init__()
        language = model.language_model
        self.embed_tokens, self.layers = language.embed_tokens, language.layers
        self.norm = language.norm if normed else nn.Identity()
        self.causal, self.scaling = causal, float(language.rotary_emb.attention_scaling)
        self.width = int(language.config.hidden_size)
        self.levels = levels(deepstack(model.visual), len(model.visual.blocks))
        self.beside = (model.visual,)
        """The vision tower of transformers: in a tuple, so that its weights are not this module's."""
        rotary = language.rotary_emb
        self.frequencies = nn.Buffer(rotary.inv_freq.float(), persistent=False)
        self.axis = nn.Buffer(axes(len(rotary.inv_freq), rotary.mrope_section), persistent=False)

    @property
    def visual(self) -> Any:
        """Transformers' vision model."""
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
            features: [features, hidden * (1 + levels)]; row 0 is zero.
            feature_index: [batch, tokens], row of a token's features; 0: it has none.
            position_ids: [batch, 3, tokens], places in time, height and width.

        Returns:
            [batch, tokens, hidden].
        """
        gathered = nn.functional.embedding(feature_index, features)
        seen = (feature_index > 0).unsqueeze(-1)
        hidden = torch.where(seen, gathered[..., : self.width], self.embed_tokens(input_ids))
        turned = position_ids.transpose(1, 2).index_select(-1, self.axis)
        angles = turned.float() * self.frequencies
        cosine, sine = (
            torch.cat((value, value), dim=-1) * self.scaling for value in (angles.cos(), angles.sin())
        )
        mask = self.mask(attention_mask)
        for number, layer in enumerate(self.layers):
            hidden = self.layer(layer, hidden, (cosine, sine), mask, attention_mask)
            if number < self.levels:
                start = self.width * (number + 1)
                hidden = hidden + gathered[..., start : start + self.width]
        return self.norm(hidden)

    def layer(
        self,
        layer: Any,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        """[batch, tokens, hidden] behind one layer. `mask`: what is added to scores; `attention_mask`: of
        tokens."""
        return layer(hidden, position_embeddings=angles, attention_mask=mask)

    def mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """[batch, 1, tokens, tokens], added to the scores."""
        allowed = attention_mask[:, None, None, :] != 0
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        order = places[None, :] <= places[:, None] if self.causal else places[None, :] >= 0
        return torch.where(allowed & order, 0.0, LOWEST).expand(-1, -1, attention_mask.shape[1], -1)


def deepstack(visual: Any) -> list[int]:
    """Numbers of the blocks whose output is a deepstack level. Qwen3.5's tower has none."""
    return [int(index) for index in getattr(visual, "deepstack_visual_indexes", ())]


def levels(indexes: Sequence[int], depth: int) -> int:
    """How many of the blocks whose numbers are `indexes` give deepstack features. `depth`: blocks."""
    return len({int(index) for index in indexes if 0 <= index < depth})


def axes(count: int, sections: list[int]) -> torch.Tensor:
    """Which of the three positions turns each frequency, [count].

    Height and width take every third of the lower frequencies' places; time keeps the rest.
    """
    axis = torch.zeros(count, dtype=torch.int64)
    for number in (1, 2):
        axis[number : sections[number] * 3 : 3] = number
    return axis


def product(convolution: Any) -> nn.Linear:
    """A convolution whose kernel is as large as its stride, over patches that are cut already."""
    linear = nn.Linear(convolution.weight[0].numel(), convolution.out_channels, convolution.bias is not None)
    linear.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
    linear.bias = convolution.bias
    return linear


def turns(places: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cosine and sine [batch, patches, 1, head width] of patches at the rows and columns `places`."""
    angles = (places[..., :2].float()[..., None] * frequencies).flatten(2)
    return tuple(torch.cat((value, value), dim=-1).unsqueeze(2) for value in (angles.cos(), angles.sin()))


def attended(
    layer: Any, heads: int, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Attention of patches within a row, a few heads at a time.

    Args:
        layer: the block's, with its `qkv` and `proj`.
        hidden: [batch, patches, width].
        cosine, sine: [batch, patches, 1, head width].
        bias: [batch, 1, 1 or patches, patches], added to the scores.
    """
    query, key, value = layer.qkv(hidden).unflatten(-1, (3, heads, -1)).unbind(2)
    query, key = rotated(query, cosine, sine) * layer.scaling, rotated(key, cosine, sine)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    results = []
    for first in range(0, heads, GROUP):
        few = slice(first, first + GROUP)
        scores = torch.matmul(query[:, few], key[:, few].transpose(-1, -2)) + bias
        results.append(torch.matmul(torch.softmax(scores, dim=-1), value[:, few]))
    return layer.proj(torch.cat(results, dim=1).transpose(1, 2).flatten(2))


def rotated(value: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions on [..., head width], whose halves are the two coordinates of each plane."""
    half = value.shape[-1] // 2
    return value * cosine + torch.cat((-value[..., half:], value[..., :half]), dim=-1) * sine


def project(merger: Any, blocks: torch.Tensor) -> torch.Tensor:
    """The two layers of a patch merger behind its norm."""
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(blocks)))
