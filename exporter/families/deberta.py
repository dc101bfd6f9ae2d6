"""DeBERTa v2 and v3 (https://arxiv.org/abs/2006.03654): attention by content and by distance, without a table
of positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "DebertaV2Model", attention="eager")


def adapt(family: Architecture, config: Config) -> Architecture:
    # v3 has no token types, v2 may have them.
    return (
        replace(family, inputs=(*family.inputs, "token_type_ids"))
        if config.get("type_vocab_size", 0)
        else family
    )


CLASSIFIER = Layer(name="classifier")

ARCHITECTURE = Architecture(
    model_types=("deberta-v2",),
    names=(
        "DebertaV2Model",
        "DebertaV2ForSequenceClassification",
        "DebertaV2ForTokenClassification",
        "DebertaV2ForMaskedLM",
    ),
    inputs=("input_ids", "attention_mask"),
    load=load,
    adapt=adapt,
    prefixes=("deberta.",),
    pool="cls",
    positions=lambda config: config.get("max_position_embeddings", 512),
    sequence=Classifier(
        pool="cls",
        layers=(Layer(name="pooler.dense", activation="@pooler_hidden_act"), CLASSIFIER),
        tokens=(CLASSIFIER,),
    ),
    tokens=(CLASSIFIER,),
)
