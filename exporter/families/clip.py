"""CLIP (https://arxiv.org/abs/2103.00020): a text tower and a vision tower whose projections share one space.

A text is pooled at its end token. Files from before transformers 4.31 state 2 as the id of that token, which
is wrong; there it is the highest id of the text, as CLIP's authors have it. Where the tokenizer never writes
the id that is stated, transformers pools the first token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from . import _pictures
from ._transformers import backbone
from .registry import Architecture, Config, Layer, Vision

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

TEXT = {"vocab_size": 49408, "hidden_size": 512, "max_position_embeddings": 77, "eos_token_id": 49407}
VISION = {"image_size": 224, "patch_size": 32}
PROJECTION = 512
"""Defaults of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPConfig."""


def translate(config: Config) -> Config:
    return _pictures.two_towers(config, TEXT, VISION)


def load(files: Files) -> nn.Module:
    from .modules import towers

    rename = towers.with_numbers("logit_scale", shape=())
    return towers.TextTower(backbone(files, "CLIPModel", rename=rename))


def pooled(files: Files) -> nn.Module:
    from transformers import CLIPConfig

    from .modules import towers

    text: Any = CLIPConfig.from_dict(dict(files.config)).text_config
    end = int(text.eos_token_id)
    if end == 2:
        return towers.EndOfText(None)
    return towers.EndOfText(end, ends=end in files.text.tokenizer.encode("a").ids)


def images(files: Files) -> Images:
    return _pictures.fixed(files, "CLIP", apart=True, most=1)


def vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules import towers

    whole: Any = text
    return towers.VisionTower(whole.model, "visual_projection")


ARCHITECTURE = Architecture(
    model_types=("clip",),
    names=("CLIPModel", "CLIPEmbeddingModel"),
    inputs=("input_ids", "attention_mask"),
    load=load,
    translate=translate,
    pool="last",
    own_pooling=True,
    pooled=pooled,
    positions=lambda config: config["max_position_embeddings"],
    projection=(Layer(name="text_projection", bias=False),),
    vision=Vision(
        images=images,
        inputs=lambda files: _pictures.pixels(images(files)),
        load=vision,
        width=lambda config: config.get("projection_dim", PROJECTION),
    ),
)
