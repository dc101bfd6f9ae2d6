"""Gemma 3 with pictures (https://arxiv.org/abs/2503.19786): a SigLIP tower whose patches are averaged in
squares, in front of Gemma 3's text model. `--convert` makes the last token a vector or scores of it.

The tokens of one picture attend to one another in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.artifact.images import Images
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages, _pictures, colpali
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIXES = ("base_model.model.", "model.")
TOWER = {"image_size": 224, "patch_size": 16}
"""For what vision_config leaves out."""
IMAGE_ID, BEGIN_ID, END_ID = 262144, 255999, 256000
"""transformers' defaults: of a feature, and of the tokens around those of a picture."""
OWN = ("image_token_index", "mm_tokens_per_image", "boi_token_index", "eoi_token_index")
"""Settings of the whole model that transformers' class reads."""


def translate(config: Config) -> Config:
    """The language model's settings in front. `text_config` and `vision_config` stay as they are."""
    text = _pictures.inner(config, "text_config")
    image_id = int(config.get("image_token_index", config.get("image_token_id", IMAGE_ID)))
    return {
        **_pages.flat(_pictures.in_front(config, text), text, width=2304, rows=262208, image_id=image_id),
        "vision_config": _pictures.inner(config, "vision_config", TOWER) | {"vision_use_head": False},
        "image_token_index": image_id,
    }


def load(files: Files) -> nn.Module:
    from .modules.features import BlockText

    config = files.config
    text = dict(config.get("text_config") or {})
    if text.get("use_bidirectional_attention"):
        raise CheckpointError(
            f"{files.source}: use_bidirectional_attention in its text_config, which transformers ignores "
            'beside pictures; --hf-overrides \'{"text_config": {"use_bidirectional_attention": null}}\' '
            "exports it as one that attends to earlier tokens"
        )
    settings = {key: config[key] for key in OWN if config.get(key) is not None}
    settings |= {"text_config": text | {"use_cache": False}, "vision_config": config["vision_config"]}
    model = backbone(files, "Gemma3Model", config=settings, rename=_renamed)
    return BlockText(model.language_model, model.vision_tower, model.multi_modal_projector)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's Gemma3Model."""
    return _pages.renamed(state, PREFIXES, colpali.NAMES, unused=colpali.UNUSED)


def images(files: Files) -> Images:
    """A picture squashed to the tower's size. Raises CheckpointError for another size, for patches that the
    projector cannot average in whole squares, and for crops beside the picture."""
    settings = processor.images(files.source, files.inner)
    if settings.flag("do_pan_and_scan", False):
        raise CheckpointError(
            f"{files.source}: do_pan_and_scan in {settings.file} adds crops of a picture, which poolrt does "
            "not cut; set it to false there to read whole pictures"
        )
    side, patch = _pictures.sides(files)
    tokens = int(files.config.get("mm_tokens_per_image", 256))
    row = math.isqrt(tokens)
    if row < 1 or row * row != tokens or (side // patch) % row:
        raise CheckpointError(
            f"{files.source}: mm_tokens_per_image is {tokens}, and {side // patch} patches a side are not "
            "averaged to it in whole squares"
        )
    _pages.stated(files, processor.processor(files.source, files.inner), "image_seq_length", tokens)
    token = _pages.placeholder(files, files.config["image_token_index"])
    begin = _special(files, "boi_token", "<start_of_image>", BEGIN_ID)
    end = _special(files, "eoi_token", "<end_of_image>", END_ID)
    return _pictures.fixed(
        files,
        "Gemma3",
        tokens=tokens,
        placeholder=begin,
        token=token,
        expansion=f"\n\n{begin}{{tokens}}{end}\n\n",
    )


def _special(files: Files, name: str, usual: str, usual_id: int) -> str:
    """The token `name` of the tokenizer. Raises CheckpointError where config.json means another one."""
    more = files.text.config.get("extra_special_tokens")
    stated = more.get(name) if isinstance(more, Mapping) else None
    token = str(stated or files.text.config.get(name) or usual)
    number, wanted = files.text.tokenizer.token_to_id(token), files.config.get(f"{name}_index", usual_id)
    if number != wanted:
        raise CheckpointError(
            f"{files.source}: {name} is token {wanted} in config.json, and {token} is token {number} of the "
            "tokenizer; both must be alike"
        )
    return token


ARCHITECTURE = _pages.language_model(
    model_types=("gemma3",),
    names=("Gemma3ForConditionalGeneration",),
    load=load,
    translate=translate,
    prefixes=(*PREFIXES, "language_model.", "model.language_model."),
    spelled=_pages.speller(PREFIXES, colpali.NAMES),
    positions=lambda config: int(config.get("max_position_embeddings", 131072)),
    images=images,
)
