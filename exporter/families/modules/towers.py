"""The halves of models that embed texts and pictures apart (CLIP, SigLIP), over one loaded checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class TextTower(nn.Module):
    """transformers' whole model, reduced to the hidden states of its text tower [batch, tokens, hidden].

    `masked` false: padding is part of the text, so every position is attended to.
    """

    def __init__(self, model: nn.Module, *, masked: bool = True) -> None:
        super().__init__()
        self.model, self.masked = model, masked

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
    ) -> torch.Tensor:
        tower: Any = self.model.text_model
        mask = attention_mask if self.masked else None
        return tower(input_ids=input_ids, attention_mask=mask).last_hidden_state


def with_numbers(
    *names: str, shape: tuple[int, ...]
) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """A change of tensors by name: the temperature and the bias of scores, on which no embedding depends and
    which some files lack, are there."""
    return lambda state: {name: torch.zeros(shape) for name in names} | state


class EndOfText(nn.Module):
    """The mask of the token at which a text is pooled: the first `end`, or the first of the highest id where
    `end` is None.

    `ends`: whether the tokenizer puts it behind a text. A text without it is pooled at its last token then,
    and at its first otherwise.
    """

    def __init__(self, end: int | None, *, ends: bool = True) -> None:
        super().__init__()
        self.end, self.ends = end, ends

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        # int32, because engines have no argmax of int64.
        numbers = (input_ids if self.end is None else input_ids == self.end).to(torch.int32)
        place = numbers.argmax(1, keepdim=True)
        if self.end is not None and self.ends:
            # A conversation is tokenised without special tokens; there the last token is pooled, as in vLLM.
            last = attention_mask.sum(1, keepdim=True) - 1
            place = torch.where(numbers.amax(1, keepdim=True) > 0, place, last)
        return (torch.arange(input_ids.shape[1]) == place).to(attention_mask.dtype)


class VisionTower(nn.Module):
    """transformers' whole model, reduced to the embeddings of pictures [batch, width]."""

    def __init__(self, model: nn.Module, projection: str | None = None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower: Any = self.model.vision_model
        pooled = tower(pixel_values=pixel_values).pooler_output
        return pooled if self.projection is None else getattr(self.model, self.projection)(pooled)
