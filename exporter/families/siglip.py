"""SigLIP and SigLIP 2 (https://arxiv.org/abs/2303.15343, 2502.14786): towers of texts and pictures that were
trained with a sigmoid loss.

A text is always padded to the full length, with padding that is attended to, and pooled at its last position,
which usually is padding. SigLIP 2 has the same classes at fixed resolutions, and another tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from . import _pictures
from ._transformers import backbone
from .registry import Architecture, Config, Layer, Vision

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

TEXT = {"vocab_size": 32000, "hidden_size": 768, "max_position_embeddings": 64}
VISION = {"hidden_size": 768, "image_size": 224, "patch_size": 16}
"""Defaults of transformers' SiglipTextConfig and SiglipVisionConfig."""


def translate(config: Config) -> Config:
    return _pictures.two_towers(config, TEXT, VISION)


def load(files: Files, name: str = "SiglipModel") -> nn.Module:
    """`name`: of transformers' class."""
    from .modules import towers

    rename = towers.with_numbers("logit_scale", "logit_bias", shape=(1,))
    return towers.TextTower(backbone(files, name, rename=rename), masked=False)


def images(files: Files) -> Images:
    """Raises CheckpointError also for a vision model without a head."""
    check_head(files)
    return _pictures.fixed(files, "Siglip", apart=True, most=1)


def check_head(files: Files) -> None:
    """Raises CheckpointError for a vision model without a head, which makes no vectors of pictures."""
    if files.config["vision_config"].get("vision_use_head") is False:
        raise CheckpointError(
            f"{files.source}: vision_use_head is false in its vision_config, so transformers makes no "
            "vectors of its pictures; expected a model with that head"
        )


def vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules import towers

    whole: Any = text
    return towers.VisionTower(whole.model)


def family(
    *,
    images: Callable[[Files], Images],
    inputs: Callable[[Files], tuple[Tensor, ...]],
    load_vision: Callable[[Files, nn.Module], nn.Module],
    **facts: Any,
) -> Architecture:
    """The record of a family of two towers: as in `Vision`, and further fields of the record."""
    return Architecture(
        inputs=("input_ids", "attention_mask"),
        pool="last",
        own_pooling=True,
        positions=lambda config: config["max_position_embeddings"],
        pad_to=lambda config: config["max_position_embeddings"],
        canonical_text=True,
        projection=(Layer(name="text_model.head"),),
        vision=Vision(
            images=images,
            inputs=inputs,
            load=load_vision,
            width=lambda config: config["vision_config"]["hidden_size"],
        ),
        **facts,
    )


ARCHITECTURE = family(
    model_types=("siglip",),
    names=("SiglipModel", "SiglipEmbeddingModel"),
    load=load,
    translate=translate,
    images=images,
    inputs=lambda files: _pictures.pixels(images(files)),
    load_vision=vision,
)
