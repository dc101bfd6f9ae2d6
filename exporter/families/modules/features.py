"""Text models in which rows of features stand in the place of tokens, and the towers that compute them.

The text graph gathers the rows by index, so that no shape in it depends on how many pictures there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .rotary import RowFrequencies

LOWEST = -1e30
"""Added to scores that do not count. Finite, so that no row of a softmax is empty."""


class FeatureText(nn.Module):
    """`model` with the row `feature_index` of `features` in the place of a token's embedding; 0: the token's
    own."""

    def __init__(self, model: Any, *towers: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.embedding: Any = model.get_input_embeddings()
        self.rows = int(self.embedding.weight.shape[0])
        # A tuple is no part of the module: the text graph holds no weights of the towers.
        self.towers = towers

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        features: torch.Tensor,
        feature_index: torch.Tensor,
        return_dict: bool = True,
    ) -> Any:
        """Args:
            input_ids, attention_mask, feature_index: [batch, tokens].
            features: [features, width], row 0 zero.

        Returns:
            transformers' output, whose last_hidden_state is [batch, tokens, width].
        """
        embedded = self.embedded(input_ids, features, feature_index)
        return self.model(inputs_embeds=embedded, attention_mask=attention_mask, return_dict=return_dict)

    def embedded(
        self, input_ids: torch.Tensor, features: torch.Tensor, feature_index: torch.Tensor
    ) -> torch.Tensor:
        """What the first layer reads, [batch, tokens, width]."""
        # The token of a picture may lie behind the table. No feature replaces it where text spells it out.
        known = torch.where(input_ids < self.rows, input_ids, torch.zeros_like(input_ids))
        return torch.where((feature_index > 0).unsqueeze(-1), features[feature_index], self.embedding(known))


class BlockText(FeatureText):
    """Gemma 3's text model: tokens attend to earlier ones, and those of one picture to all of that picture.

    `model`: transformers' Gemma3TextModel.
    """

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        features: torch.Tensor,
        feature_index: torch.Tensor,
        return_dict: bool = True,
    ) -> Any:
        """As of FeatureText."""
        masks = self.masks(attention_mask, feature_index > 0)
        embedded = self.embedded(input_ids, features, feature_index)
        if isinstance(self.model, RowFrequencies):
            return self.model(inputs_embeds=embedded, attention_mask=attention_mask, masks=masks)
        return self.model(inputs_embeds=embedded, attention_mask=masks)

    def masks(self, attention_mask: torch.Tensor, pictured: torch.Tensor) -> dict[str, torch.Tensor]:
        """Type of a layer -> what is added to its scores, [batch, 1, tokens, tokens].

        `pictured`: [batch, tokens], whether a token stands for a feature. Tokens of a picture stand side by
        side, and words stand between two pictures, so that tokens with equally many words in front are of
        one picture.
        """
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        words = (~pictured).to(torch.int64).cumsum(1)
        block = (words[:, :, None] == words[:, None, :]) & pictured[:, :, None] & pictured[:, None, :]
        allowed = (places[None, :] <= places[:, None]) | block
        allowed = allowed & (attention_mask[:, None, :] != 0)
        near = places[None, :] > places[:, None] - self.model.config.sliding_window
        return {
            kind: torch.where(mask, 0.0, LOWEST).unsqueeze(1)
            for kind, mask in (("full_attention", allowed), ("sliding_attention", allowed & near))
        }


class Tower(nn.Module):
    """Pictures of fixed size -> features: the last hidden states of a vision model, projected."""

    def __init__(self, tower: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> [batch, rows, width]"""
        return self.projection(self.tower(pixel_values).last_hidden_state)
