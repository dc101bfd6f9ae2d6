"""SigLIP 2 NaFlex (https://arxiv.org/abs/2502.14786): SigLIP's towers, of which the second reads pictures in
their own shape, as up to `max_num_patches` patches.

SigLIP 2 at fixed resolutions has SigLIP's classes and is read by siglip.py.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Patches
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pictures, siglip
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

VISION = {"hidden_size": 768, "patch_size": 16, "num_patches": 256}
"""Defaults of transformers' Siglip2VisionConfig."""


def translate(config: Config) -> Config:
    return _pictures.two_towers(config, siglip.TEXT, VISION)


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
    siglip.check_head(files)
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
    return _pictures.patches(3 * int(files.config["vision_config"]["patch_size"]) ** 2)


ARCHITECTURE = siglip.family(
    model_types=("siglip2",),
    names=("Siglip2Model",),
    load=partial(siglip.load, name="Siglip2Model"),
    translate=translate,
    images=images,
    inputs=inputs,
    load_vision=load_vision,
)
