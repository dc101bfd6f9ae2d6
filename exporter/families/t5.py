"""The encoders of T5 (https://arxiv.org/abs/1910.10683), mT5 and UMT5: relative positions, and so no limit of
length.

sentence-t5, gtr and instructor are built on them. Of a whole T5 only the encoder is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    return {
        **config,
        "hidden_size": config.get("d_model", 512),
        "vocab_size": config.get("vocab_size", 32128),
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
)
