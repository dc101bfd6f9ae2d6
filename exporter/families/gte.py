"""GTE (https://arxiv.org/abs/2407.19669): BERT's order of layers with rotary positions and gated layers,
native in transformers.

It is published under two model types. `gte` (Snowflake's arctic-embed-m-v2.0) is read as it is. The rotary
settings of `new` (Alibaba-NLP/new-impl: mGTE, gte-en-v1.5) are rewritten. Its NTK scaling applies at every
length: the base is θ·factor, and frequencies are divided by factor^(2/head_dim). That equals transformers'
`linear` scaling with the larger base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "GteModel", add_pooling_layer=False)


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    # Other code bases may use the name `new` too.
    return config.get("model_type") != "new" or any(
        name.endswith("attention.qkv_proj.weight") for name in shapes
    )


def translate(config: Config) -> Config:
    if config.get("model_type") != "new":
        return config
    refuse(config)
    old = ("rope_theta", "rope_scaling", "position_embedding_type")
    return {key: value for key, value in config.items() if key not in old} | {
        "model_type": "gte",
        "rope_parameters": rotary(config),
        "architectures": published(config.get("architectures") or ()),
    }


def published(names: Sequence[str]) -> list[str]:
    """Class names in vLLM's spelling, the bare model first. An embedding model with sparse weights also lists
    the token classifier."""
    spelled = [f"Gte{name}" if name.startswith("New") else name for name in names]
    return sorted(spelled, key=lambda name: not name.endswith("Model"))


def refuse(config: Config) -> None:
    """Raises CheckpointError for settings of new-impl that change the numbers and that no published model
    has."""
    off: dict[str, Any] = {
        "logn_attention_scale": False,
        "position_embedding_type": "rope",
        "layer_norm_type": "layer_norm",
    }
    wrong = [f"{key} {config[key]!r}" for key, value in off.items() if config.get(key, value) != value]
    if wrong:
        raise CheckpointError(
            f"config.json: {', '.join(wrong)} of Alibaba-NLP/new-impl is not supported; expected {off}"
        )


def rotary(config: Config) -> dict[str, Any]:
    """transformers' rope_parameters for new-impl's settings. Raises CheckpointError."""
    theta = float(config.get("rope_theta", 10000.0))
    scaling = config.get("rope_scaling")
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    kind, factor = scaling.get("type", scaling.get("rope_type")), float(scaling.get("factor", 1.0))
    if kind != "ntk" or scaling.get("mixed_b") is not None:
        raise CheckpointError(
            f"config.json: rope_scaling {dict(scaling)!r} is not supported; expected type 'ntk' with a factor"
        )
    head = int(config["hidden_size"]) // int(config["num_attention_heads"])
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head)}


CLASSIFIER = Layer(name="classifier")

ARCHITECTURE = Architecture(
    model_types=("gte", "new"),
    names=(
        "GteModel",
        "GteForSequenceClassification",
        "GteForTokenClassification",
        "GteNewModel",
        "GteNewForSequenceClassification",
        "GteNewForTokenClassification",
        "NewModel",
        "NewForSequenceClassification",
        "NewForTokenClassification",
    ),
    # Some checkpoints have a table of token types, but every published use passes zeros.
    inputs=("input_ids", "attention_mask"),
    load=load,
    matches=matches,
    translate=translate,
    prefixes=("new.", "gte."),
    pool="cls",
    positions=lambda config: config["max_position_embeddings"],
    capped_by_tokenizer=False,
    sequence=Classifier(
        pool="cls",
        layers=(Layer(name="pooler.dense", activation="tanh"), CLASSIFIER),
        tokens=(CLASSIFIER,),
    ),
    tokens=(CLASSIFIER,),
)
