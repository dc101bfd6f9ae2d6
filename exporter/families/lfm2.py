"""LFM2 (https://arxiv.org/abs/2511.23404): short causal convolutions between attention layers, published as a
ColBERT model.

Masked positions are set to zero in front of every convolution. Padding behind a text cannot reach it anyway.
But the filler tokens of a query are masked while their vectors count, so the graph needs the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._decoders import family
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def translate(config: Config) -> Config:
    settings = dict(config)
    if "block_ff_dim" in settings:
        settings["intermediate_size"] = settings.pop("block_ff_dim")
    if "layer_types" not in settings and settings.get("full_attn_idxs") is not None:
        attended = set(settings["full_attn_idxs"])
        settings["layer_types"] = [
            "full_attention" if layer in attended else "conv"
            for layer in range(int(settings["num_hidden_layers"]))
        ]
    return settings


def load(files: Files) -> nn.Module:
    return backbone(files, "Lfm2Model", config={**files.config, "use_cache": False})


ARCHITECTURE = family(
    model_types=("lfm2",),
    stem="Lfm2",
    names=("ColBERTLfm2Model",),
    load=load,
    translate=translate,
    positions=lambda config: config.get("max_position_embeddings", 128_000),
)
