"""LFM2 (https://arxiv.org/abs/2511.23404): short causal convolutions between attention layers;
published as a ColBERT model.

Masked positions are zeroed in front of every convolution. Padding could not reach a text anyway, but the
positions that fill up a query are masked and answered, so the mask is part of the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._decoders import SIZES, family
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def translate(config: Config) -> Config:
    made = dict(config)
    if "block_ff_dim" in made:
        made["intermediate_size"] = made.pop("block_ff_dim")
    if "layer_types" not in made and made.get("full_attn_idxs") is not None:
        attended = set(made["full_attn_idxs"])
        made["layer_types"] = [
            "full_attention" if layer in attended else "conv"
            for layer in range(int(made["num_hidden_layers"]))
        ]
    return made


def load(files: Files) -> nn.Module:
    return backbone(files, "Lfm2Model", config={**files.config, "use_cache": False})


TINY: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "head_dim"}

ARCHITECTURE = family(
    model_types=("lfm2",),
    stem="Lfm2",
    names=("ColBERTLfm2Model",),
    load=load,
    translate=translate,
    positions=lambda config: config.get("max_position_embeddings", 128_000),
    tiny=TINY | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
)
