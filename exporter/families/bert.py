"""BERT (https://arxiv.org/abs/1810.04805): learned positions, token types, post-norm blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._transformers import backbone
from .registry import Architecture, Classifier, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    # The pooler belongs to the classification head (see `sequence`); embedding checkpoints often lack it.
    return backbone(files, "BertModel", add_pooling_layer=False)


CLASSIFIER = Layer(name="classifier")
VOCABULARY = (
    Layer(name="cls.predictions.transform.dense", activation="@hidden_act"),
    Layer(name="cls.predictions.transform.LayerNorm", kind="layer_norm", eps=("layer_norm_eps", 1e-12)),
    # The bias has two names in old files. The weight is that of the token table where no other is stored.
    Layer(name="cls.predictions.decoder", names=("cls.predictions", "embeddings.word_embeddings")),
)

ARCHITECTURE = Architecture(
    model_types=("bert",),
    names=(
        "BertModel",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertForMaskedLM",
        "HF_ColBERT",
        "BertSpladeSparseEmbeddingModel",
    ),
    inputs=("input_ids", "attention_mask", "token_type_ids"),
    load=load,
    prefixes=("bert.",),
    pool="cls",
    positions=lambda config: config["max_position_embeddings"],
    # vLLM applies the bare classifier to tokens, without the pooler's dense layer.
    sequence=Classifier(
        pool="cls",
        layers=(Layer(name="pooler.dense", activation="tanh"), CLASSIFIER),
        tokens=(CLASSIFIER,),
    ),
    tokens=(CLASSIFIER,),
    vocabulary=VOCABULARY,
)
