"""Gemma 3's text model beside pictures: their tokens attend to one another in both directions."""

from __future__ import annotations

from typing import Any

import torch

from .features import FeatureText

LOWEST = -1e30
"""Added to scores that do not count. Finite, so that no row of a softmax is empty."""


class BlockText(FeatureText):
    """A text model whose tokens attend to earlier ones, and those of one picture to all of that picture.

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
        return self.model(
            inputs_embeds=self.embedded(input_ids, features, feature_index), attention_mask=masks
        )

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
