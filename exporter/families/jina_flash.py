"""XLM-R with learned positions in the layout of Jina's flash implementation:
jina-reranker-v2-base-multilingual.

It computes what XLM-R computes. Queries, keys and values share a matrix, and tensors have other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from . import roberta
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "encoder.layers": "encoder.layer",
    "mixer.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
FUSED = re.compile(r"(.*)mixer\.Wqkv\.(weight|bias)")


def roberta_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under RoBERTa's names, with queries, keys and values apart."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for old, new in NAMES.items():
            name = name.replace(f"{old}.", f"{new}.")
        if (fused := FUSED.fullmatch(name)) is not None:
            thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            renamed |= {f"{fused[1]}attention.self.{part}.{fused[2]}": rows for part, rows in thirds}
        else:
            renamed[name] = tensor
    return renamed


def load(files: Files) -> nn.Module:
    config = {**files.config, "model_type": "roberta"}
    return backbone(files, "RobertaModel", add_pooling_layer=False, config=config, rename=roberta_state)


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return any(".mixer." in name for name in shapes) and any(
        name.endswith("position_embeddings.weight") for name in shapes
    )


ARCHITECTURE = replace(roberta.ARCHITECTURE, model_types=("xlm-roberta",), load=load, matches=matches)
