"""RoBERTa (https://arxiv.org/abs/1907.11692) and XLM-R (https://arxiv.org/abs/1911.02116): one module, two
tokenizers.

Their classes in transformers differ in name only. Positions start at pad_token_id + 1, so a table of 514 rows
holds 512 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(
        files, "RobertaModel", add_pooling_layer=False, config={**files.config, "model_type": "roberta"}
    )


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    # Jina's flash models have the model_type xlm-roberta too, but rotary positions or other tensors.
    rotary = config.get("position_embedding_type", "absolute") != "absolute" or "lora_adaptations" in config
    return not rotary and not any(".mixer." in name for name in shapes)


HEAD = (Layer(name="classifier.dense", activation="tanh"), Layer(name="classifier.out_proj"))
VOCABULARY = (
    Layer(name="lm_head.dense", activation="gelu"),
    Layer(name="lm_head.layer_norm", kind="layer_norm", eps=("layer_norm_eps", 1e-12)),
    Layer(name="lm_head.decoder", names=("lm_head", "embeddings.word_embeddings")),
)

ARCHITECTURE = Architecture(
    model_types=("roberta", "xlm-roberta"),
    names=(
        "RobertaModel",
        "RobertaForSequenceClassification",
        "RobertaForTokenClassification",
        "RobertaForMaskedLM",
        "XLMRobertaModel",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForTokenClassification",
        "XLMRobertaForMaskedLM",
        "BgeM3EmbeddingModel",
    ),
    inputs=("input_ids", "attention_mask"),  # type_vocab_size is 1: token types are all zero
    load=load,
    matches=matches,
    prefixes=("roberta.",),
    pool="cls",
    positions=lambda config: config["max_position_embeddings"] - config.get("pad_token_id", 1) - 1,
    sequence=Classifier(pool="cls", layers=HEAD, tokens=HEAD),
    tokens=(Layer(name="classifier"),),
    vocabulary=VOCABULARY,
)
