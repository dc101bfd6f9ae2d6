"""ModernBERT (https://arxiv.org/abs/2412.13663): rotary positions, local windows between global layers,
no biases, no token types.

Both masks are computed from the length while the graph runs, so nothing of the size of a long text is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._transformers import backbone
from .registry import Architecture, Classifier, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "ModernBertModel")


NORM = ("norm_eps", 1e-5)
CLASSIFIER = Layer(name="classifier")
# classifier_bias and norm_bias say whether these have one; the file itself says so too.
HEAD = (
    Layer(name="head.dense", bias=None, activation="@classifier_activation"),
    Layer(name="head.norm", kind="layer_norm", bias=None, eps=NORM),
    CLASSIFIER,
)
SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}

ARCHITECTURE = Architecture(
    model_types=("modernbert",),
    names=(
        "ModernBertModel", "ModernBertForSequenceClassification", "ModernBertForTokenClassification",
        "ModernBertForMaskedLM",
        "ColBERTModernBertModel",
    ),
    inputs=("input_ids", "attention_mask"),
    load=load,
    prefixes=("model.",),
    pool="cls",
    positions=lambda config: config.get("max_position_embeddings", 8192),
    # vLLM applies the bare classifier to the tokens of a sequence classifier, without
    # the head in front of it.
    sequence=Classifier(pool="cls", pool_key="classifier_pooling", layers=HEAD, tokens=(CLASSIFIER,)),
    tokens=HEAD,
    vocabulary=(*HEAD[:2], Layer(name="decoder", names=("embeddings.tok_embeddings",), bias=None)),
    tiny=SIZES | {"max_position_embeddings": 128, "local_attention": 8, "pad_token_id": 0},
)  # fmt: skip
