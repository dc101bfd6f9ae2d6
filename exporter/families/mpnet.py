"""MPNet (https://arxiv.org/abs/2004.09297): BERT with a bias by distance that all layers share, without token
types.

Positions start at pad_token_id + 1, as RoBERTa's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import roberta
from ._transformers import backbone
from .registry import Architecture, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "MPNetModel", attention="eager", add_pooling_layer=False)


ARCHITECTURE = Architecture(
    model_types=("mpnet",),
    names=("MPNetModel", "MPNetForSequenceClassification", "MPNetForTokenClassification", "MPNetForMaskedLM"),
    inputs=("input_ids", "attention_mask"),
    load=load,
    prefixes=("mpnet.",),
    pool="cls",
    positions=roberta.ARCHITECTURE.positions,
    sequence=roberta.ARCHITECTURE.sequence,
    tokens=(Layer(name="classifier"),),
    vocabulary=roberta.VOCABULARY,
)
