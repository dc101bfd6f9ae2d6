"""Longformer (https://arxiv.org/abs/2004.05150): each position attends to a window, and a classifier's first
token to everything.

transformers computes windows in chunks whose number depends on the length, which cannot be traced. A mask
over full attention gives the same numbers at any length, but takes the memory of full attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import roberta
from ._transformers import backbone
from .registry import Architecture, Classifier, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    model = backbone(files, "LongformerModel", add_pooling_layer=False, attention="eager")
    # Of the published classes, only the sequence classifier gives its first token global attention.
    return windows(model, first_sees_all=files.classifies)


def windows(model: Any, *, first_sees_all: bool) -> nn.Module:
    """`model` with windows as a mask over full attention.

    `first_sees_all`: the first token attends to every other one and is attended by it.
    """
    import torch
    from torch import nn

    def split(value: torch.Tensor, heads: int) -> torch.Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    def attended(
        part: Any, hidden: torch.Tensor, mask: torch.Tensor, first_mask: torch.Tensor
    ) -> torch.Tensor:
        query, key, value = (
            split(layer(hidden), part.num_heads) for layer in (part.query, part.key, part.value)
        )
        scale = part.head_dim**-0.5
        result = (query @ key.transpose(2, 3) * scale + mask).softmax(-1) @ value
        if first_sees_all:
            key, value = (
                split(layer(hidden), part.num_heads) for layer in (part.key_global, part.value_global)
            )
            query = split(part.query_global(hidden[:, :1]), part.num_heads)
            first = (query @ key.transpose(2, 3) * scale + first_mask).softmax(-1) @ value
            result = torch.cat((first, result[:, :, 1:]), dim=2)
        return result.transpose(1, 2).flatten(2)

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
        ) -> torch.Tensor:
            hidden = self.model.embeddings(input_ids=input_ids)
            position = torch.arange(input_ids.shape[1], device=input_ids.device)
            apart = (position[:, None] - position[None, :]).abs()
            lowest = torch.finfo(hidden.dtype).min
            kept = attention_mask[:, None, None, :] > 0
            first_mask = torch.where(kept, 0.0, lowest)
            for layer in self.model.encoder.layer:
                part = layer.attention.self
                seen = apart <= part.one_sided_attn_window_size
                seen = seen | (position[None, :] == 0) if first_sees_all else seen
                mask = torch.where(seen & kept, 0.0, lowest)
                inner = layer.attention.output(attended(part, hidden, mask, first_mask), hidden)
                hidden = layer.output(layer.intermediate(inner), inner)
            return hidden

    return Windows()


ARCHITECTURE = Architecture(
    model_types=("longformer",),
    names=(
        "LongformerModel",
        "LongformerForSequenceClassification",
        "LongformerForTokenClassification",
        "LongformerForMaskedLM",
    ),
    inputs=("input_ids", "attention_mask"),
    load=load,
    prefixes=("longformer.",),
    pool="cls",
    positions=roberta.ARCHITECTURE.positions,
    sequence=Classifier(pool="cls", layers=roberta.HEAD, tokens=roberta.HEAD),
    tokens=(Layer(name="classifier"),),
    vocabulary=roberta.VOCABULARY,
)
