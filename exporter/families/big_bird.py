"""BigBird (https://arxiv.org/abs/2007.14062): long texts attend by blocks, short ones to all of themselves.

transformers switches its modules to full attention for good at the first short text, and counts blocks by the
longest text of a batch. Here a mask over full attention gives each row what a fresh model gives the text
alone. Each block sees itself, its neighbours, the first and the last block. The first and the last block see
everything. In place of the random blocks of training, a block sees the first block again, once for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from . import bert
from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    config = files.config
    kind = config.get("attention_type", "block_sparse")
    if kind not in ("block_sparse", "original_full"):
        raise CheckpointError(
            f"{files.source}: attention_type {kind!r}; expected block_sparse or original_full"
        )
    settings = {**config, "attention_type": "original_full", "use_cache": False}
    model = backbone(files, "BigBirdModel", add_pooling_layer=False, attention="eager", config=settings)
    return model if kind == "original_full" else blocks(model, config)


def blocks(model: nn.Module, config: Config) -> nn.Module:
    """`model`, which has full attention, with the mask that makes it attend by blocks."""
    import torch
    from torch import nn

    size, random = int(config.get("block_size", 64)), int(config.get("num_random_blocks", 3))

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> Any:
            length = attention_mask.sum(-1)[:, None, None]
            block = torch.arange(input_ids.shape[1], device=input_ids.device) // size
            query, key = block[:, None], block[None, :]
            last = (length + (size - 1)) // size - 1  # [batch, 1, 1]
            everywhere = (query == 0) | (query == last)
            near = (query - key).abs() <= 1
            seen = everywhere | near | (key == 0) | (key == last)
            whole = length <= (5 + 2 * random) * size
            again = (~everywhere & (key == 0) & ~whole).to(torch.float32) * math.log(1 + random)
            allowed = (seen | whole) & (attention_mask[:, None, :] > 0)
            mask = torch.where(allowed, again, torch.finfo(torch.float32).min).unsqueeze(1)
            return self.model(input_ids=input_ids, attention_mask=mask, **inputs)

    return Blocks()


HEAD = (Layer(name="classifier.dense", activation="@hidden_act"), Layer(name="classifier.out_proj"))

ARCHITECTURE = Architecture(
    model_types=("big_bird",),
    names=(
        "BigBirdModel",
        "BigBirdForSequenceClassification",
        "BigBirdForTokenClassification",
        "BigBirdForMaskedLM",
    ),
    inputs=("input_ids", "attention_mask", "token_type_ids"),
    load=load,
    prefixes=("bert.",),
    pool="cls",
    positions=lambda config: config["max_position_embeddings"],
    sequence=Classifier(pool="cls", layers=HEAD, tokens=HEAD),
    tokens=(bert.CLASSIFIER,),
    vocabulary=bert.VOCABULARY,
)
