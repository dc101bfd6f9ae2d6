"""BERT (https://arxiv.org/abs/1810.04805): learned positions, token types, post-norm blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import Architecture, Classifier, Layer
from ._transformers import backbone

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoint import Checkpoint


def load(checkpoint: Checkpoint) -> nn.Module:
    # The pooler belongs to the classification head (see `sequence`); embedding checkpoints often lack it.
    return backbone(checkpoint, "BertModel", add_pooling_layer=False)


CLASSIFIER = Layer(name="classifier")
SIZES: dict[str, Any] = {"vocab_size": 112, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}

ARCHITECTURE = Architecture(
    model_types=("bert",),
    names=("BertModel", "BertForSequenceClassification", "BertForTokenClassification", "BertForMaskedLM", "HF_ColBERT"),
    inputs=("input_ids", "attention_mask", "token_type_ids"),
    load=load,
    prefixes=("bert.",),
    pool="cls",
    positions=lambda config: config["max_position_embeddings"],
    # vLLM applies the bare classifier to tokens, without the pooler's dense layer.
    sequence=Classifier(pool="cls", layers=(Layer(name="pooler.dense", activation="tanh"), CLASSIFIER), tokens=(CLASSIFIER,)),
    tokens=(CLASSIFIER,),
    tiny=SIZES | {"max_position_embeddings": 64},
)
