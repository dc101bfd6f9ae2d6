"""T5's encoder (https://arxiv.org/abs/1910.10683) and mT5's, UMT5's: relative positions, no
limit of length of its own.

sentence-t5, gtr and instructor are built on it. A whole T5 is read for its encoder; its
decoder is left where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ._transformers import backbone
from .registry import Architecture, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

CLASSES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
SUFFIXES = ("EncoderModel", "Model", "ForConditionalGeneration", "ForTokenClassification")


def load(files: Files) -> nn.Module:
    return backbone(
        files, CLASSES[str(files.config["model_type"])], config={**files.config, "use_cache": False}
    )


def translate(config: Config) -> Config:
    published = [str(name) for name in config.get("architectures") or ()]
    if any(name.endswith(("ForSequenceClassification", "ForQuestionAnswering")) for name in published):
        raise CheckpointError(
            f"config.json: {published[0]} judges what T5's decoder says, and poolrt runs the encoder alone; "
            '`--hf-overrides \'{"architectures": ["T5EncoderModel"]}\'` embeds with it'
        )
    known: dict[str, Any] = {
        "hidden_size": config.get("d_model", 512),
        "vocab_size": config.get("vocab_size", 32128),
    }
    return {**config, **known}


SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
}

ARCHITECTURE = Architecture(
    model_types=tuple(CLASSES),
    names=tuple(f"{stem}{suffix}" for suffix in SUFFIXES for stem in ("T5", "MT5", "UMT5")),
    inputs=("input_ids", "attention_mask"),
    load=load,
    translate=translate,
    prefixes=("transformer.",),
    pool="mean",
    positions=lambda config: config.get("max_position_embeddings", config.get("n_positions")),
    tokens=(Layer(name="classifier"),),
    tiny=SIZES,
)
