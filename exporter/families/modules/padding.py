"""Sets padding to zero in encoders whose layers mix neighbouring positions without the mask.

Behind the end of a text alone, a convolution reads zeros. Behind the end of a text in a batch, it would read
hidden states of padding tokens.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

# model_type -> (end of a layer's path, whether its input or its output is set to zero).
LAYERS: dict[str, tuple[tuple[str, str], ...]] = {
    "convbert": ((".key_conv_attn_layer", "input"), (".conv_out_layer", "output")),
    # Each position reads its neighbours' embeddings.
    "mobilebert": ((".embeddings.word_embeddings", "output"),),
    "nystromformer": ((".self.value", "output"),),
}


class WithoutPadding(nn.Module):
    """`model` with zeros at masked positions in front of or behind the layers of `ends`."""

    def __init__(self, model: nn.Module, ends: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self.model = model
        # A container that torch does not look into. It holds the mask only while forward runs.
        self.now = SimpleNamespace(mask=None)
        for path, part in model.named_modules():
            for end, side in ends:
                if f".{path}".endswith(end):
                    part.register_forward_pre_hook(
                        self._before
                    ) if side == "input" else part.register_forward_hook(self._after)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> Any:
        self.now.mask = attention_mask
        try:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        finally:
            self.now.mask = None

    def _before(self, part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """[batch, channels, tokens]"""
        return (inputs[0] * self.now.mask.unsqueeze(1).to(inputs[0].dtype), *inputs[1:])

    def _after(self, part: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width]"""
        return output * self.now.mask.unsqueeze(-1).to(output.dtype)


def without_padding(model_type: str, model: nn.Module) -> nn.Module:
    """`model`, wrapped where its layers mix neighbouring positions."""
    return WithoutPadding(model, LAYERS[model_type]) if model_type in LAYERS else model
