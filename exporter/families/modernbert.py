"""ModernBERT (https://arxiv.org/abs/2412.13663): rotary positions, local windows between global layers,
no biases, no token types.

The graph computes both masks from the length of the text, so nothing of the size of a long text is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._transformers import backbone
from .registry import Architecture, Classifier, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "ModernBertModel")


NORM = ("norm_eps", 1e-5)
CLASSIFIER = Layer(name="classifier")
# classifier_bias and norm_bias state whether these have a bias; so do the stored tensors.
HEAD = (
    Layer(name="head.dense", bias=None, activation="@classifier_activation"),
    Layer(name="head.norm", kind="layer_norm", bias=None, eps=NORM),
    CLASSIFIER,
)

ARCHITECTURE = Architecture(
    model_types=("modernbert",),
    names=(
        "ModernBertModel",
        "ModernBertForSequenceClassification",
        "ModernBertForTokenClassification",
        "ModernBertForMaskedLM",
        "ColBERTModernBertModel",
    ),
    inputs=("input_ids", "attention_mask"),
    load=load,
    prefixes=("model.",),
    pool="cls",
    positions=lambda config: config.get("max_position_embeddings", 8192),
    # vLLM applies only the classifier to the tokens of a sequence classifier, without the layers before it.
    sequence=Classifier(pool="cls", pool_key="classifier_pooling", layers=HEAD, tokens=(CLASSIFIER,)),
    tokens=HEAD,
    vocabulary=(*HEAD[:2], Layer(name="decoder", names=("embeddings.tok_embeddings",), bias=None)),
)
