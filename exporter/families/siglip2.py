"""SigLIP 2 NaFlex (https://arxiv.org/abs/2502.14786): SigLIP's towers, of which the second reads pictures in
their own shape, as up to `max_num_patches` patches.

SigLIP 2 at fixed resolutions has SigLIP's classes and is read by siglip.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Patches
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pictures, siglip
from ._transformers import backbone
from .registry import Architecture, Config, Layer, Vision

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

VISION = {"hidden_size": 768, "patch_size": 16, "num_patches": 256}
"""Defaults of transformers' Siglip2VisionConfig."""


def translate(config: Config) -> Config:
    return _pictures.two_towers(config, siglip.TEXT, VISION)


def load(files: Files) -> nn.Module:
    from .modules import towers

    rename = towers.with_numbers("logit_scale", "logit_bias", shape=(1,))
    return towers.TextTower(backbone(files, "Siglip2Model", rename=rename), masked=False)


def load_vision(files: Files, text: Any) -> nn.Module:
    from .modules.naflex import NaFlexTower

    return NaFlexTower(text.model.vision_model)


def images(files: Files) -> Images:
    """Patches of a picture in its own shape. Raises CheckpointError for patches that the vision model does
    not read, for a table of positions that is no square, and for a model without a head."""
    vision, settings = files.config["vision_config"], processor.images(files.source, files.inner)
    if settings.stem not in ("", "Siglip2"):
        raise CheckpointError(
            f"{files.source}: {settings.file} names {settings.kind}, which makes no patches of pictures in "
            "their own shape; expected Siglip2ImageProcessor"
        )
    if vision.get("vision_use_head") is False:
        raise CheckpointError(
            f"{files.source}: vision_use_head is false in its vision_config, so transformers makes no "
            "vectors of its pictures; expected a model with that head"
        )
    size, table = settings.number("patch_size", 16), int(vision["num_patches"])
    if size != vision["patch_size"] or vision.get("num_channels", 3) != 3 or math.isqrt(table) ** 2 != table:
        raise CheckpointError(
            f"{files.source}: {settings.file} cuts patches of {size} pixels in 3 colours, the vision model "
            f"reads {vision['patch_size']} in {vision.get('num_channels', 3)} at {table} places; both must "
            "be alike, and the places a square"
        )
    if not settings.flag("do_resize", True):
        raise CheckpointError(
            f"{files.source}: do_resize is false in {settings.file}, and pictures have no whole number of "
            "patches without; set it to true"
        )
    mean, std = settings.normalisation(processor.HALF, processor.HALF)
    most = settings.number("max_num_patches", 256)
    return Images(
        scheme="patches",
        resample=settings.resample("bilinear"),
        kernel=settings.kernel(),
        mean=mean,
        std=std,
        patches=Patches(
            size=size, merge=1, temporal=1, min_pixels=size**2, max_pixels=most * size**2, fit="count"
        ),
        apart=True,
        most=1,
    )


def inputs(files: Files) -> tuple[Tensor, ...]:
    values = 3 * int(files.config["vision_config"]["patch_size"]) ** 2
    return (
        Tensor(name="pixel_values", dtype="float32", axes=("batch", "patches", values)),
        Tensor(name="patch_positions", dtype="int64", axes=("batch", "patches", 4)),
        Tensor(name="patch_mask", dtype="int64", axes=("batch", "patches")),
    )


ARCHITECTURE = Architecture(
    model_types=("siglip2",),
    names=("Siglip2Model",),
    inputs=("input_ids", "attention_mask"),
    load=load,
    translate=translate,
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
)
