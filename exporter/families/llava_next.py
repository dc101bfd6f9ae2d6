"""LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/): a CLIP tower over the tiles of a
picture, in front of a language model. royokong/e5-v makes its last token an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Tiling
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages, _pictures
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIXES = ("base_model.model.", "model.")
NAMES = (
    ("language_model.model.", "language_model."),
    ("vision_tower.vision_model.", "vision_tower."),
)
"""Beginnings of tensor names behind the prefixes: of files of transformers 4 and of today's."""
UNUSED = ("lm_head.", "language_model.lm_head.")
TOWER = {"image_size": 336, "patch_size": 14, "hidden_size": 1024}
"""For what vision_config leaves out."""
RESOLUTIONS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""Heights and widths, where no file has them."""
PICTURE = "<image>"


def translate(config: Config) -> Config:
    """The language model's settings in front. `text_config` and `vision_config` stay as they are."""
    text = _pictures.inner(config, "text_config")
    image_id = config.get("image_token_index", config.get("image_token_id", 32000))
    return {
        **_pages.flat(_pictures.in_front(config, text), text, width=4096, rows=32064, image_id=int(image_id)),
        "vision_config": _pictures.inner(config, "vision_config", TOWER),
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    own = ("image_token_index", "image_token_id", "image_grid_pinpoints", "projector_hidden_act",
           "multimodal_projector_bias", "vision_feature_layer", "vision_feature_select_strategy",
           "tie_word_embeddings")  # fmt: skip
    settings = {key: files.config[key] for key in own if files.config.get(key) is not None}
    settings["text_config"] = dict(files.config.get("text_config") or {}) | {"use_cache": False}
    settings["vision_config"] = dict(files.config["vision_config"])
    model = backbone(files, "LlavaNextModel", config=settings, rename=_renamed)
    return FeatureText(model.language_model, model)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's LlavaNextModel."""
    return _pages.renamed(state, PREFIXES, NAMES, unused=UNUSED)


def _load_vision(files: Files, text: Any) -> nn.Module:
    from .modules.clip_tiles import LineTower

    [model] = text.towers
    layers = files.config.get("vision_feature_layer", -2)
    return LineTower(model, layers if isinstance(layers, list) else [layers])


def images(files: Files) -> Images:
    """Tiles of the tower's size. Raises CheckpointError for tiles that it has no positions for."""
    config, settings = files.config, processor.images(files.source, files.inner)
    vision = config["vision_config"]
    size = settings.size("size", {"shortest_edge": 224})
    edge = size.get("shortest_edge") or size.get("height")
    crop = settings.size("crop_size", {"height": 224, "width": 224})
    side = int(vision["image_size"])
    if {edge, crop.get("height"), crop.get("width")} != {side} or size.get("width", side) != side:
        raise CheckpointError(
            f"{files.source}: {settings.file} makes tiles of {crop.get('width')} x {crop.get('height')} from "
            f"pictures of {edge}, the vision model reads {side} x {side}"
        )
    if (strategy := config.get("vision_feature_select_strategy", "default")) != "default":
        raise CheckpointError(
            f"{files.source}: vision_feature_select_strategy {strategy!r}, whose features are no square; "
            "expected 'default'"
        )
    mean, std = settings.normalisation(processor.CLIP_MEAN, processor.CLIP_STD)
    patches = (side // int(vision["patch_size"])) ** 2
    return Images(
        scheme="tiles",
        resample=settings.resample("bicubic"),
        kernel=settings.kernel(),
        mean=mean,
        std=std,
        height=side,
        width=side,
        tiling=Tiling(rule="anyres", resolutions=_resolutions(files, settings, side)),
        tokens=patches + 1,
        cost=patches,
        placeholder=PICTURE,
        token=PICTURE,
    )


def _resolutions(files: Files, settings: processor.Settings, side: int) -> tuple[tuple[int, int], ...]:
    """Heights and widths in pixels, multiples of a tile. Raises CheckpointError."""
    listed = settings.values.get("image_grid_pinpoints") or files.config.get("image_grid_pinpoints")
    other = files.config.get("image_grid_pinpoints")
    listed = listed or RESOLUTIONS
    pairs = [pair for pair in listed if isinstance(pair, list | tuple) and len(pair) == 2]
    whole = all(isinstance(edge, int) and edge > 0 and edge % side == 0 for pair in pairs for edge in pair)
    if not pairs or len(pairs) != len(listed) or not whole:
        raise CheckpointError(
            f"{files.source}: image_grid_pinpoints {listed!r}; expected pairs of multiples of {side}"
        )
    if other is not None and [tuple(pair) for pair in other] != [tuple(pair) for pair in pairs]:
        raise CheckpointError(
            f"{files.source}: {settings.file} has other image_grid_pinpoints than config.json; one of "
            "the two is of another checkpoint"
        )
    return tuple((int(height), int(width)) for height, width in pairs)


ARCHITECTURE = _pages.language_model(
    model_types=("llava_next",),
    names=("LlavaNextModel", "LlavaNextForConditionalGeneration", "LlavaNextForSequenceClassification"),
    load=load,
    translate=translate,
    prefixes=(*PREFIXES, "language_model.", "model.language_model."),
    spelled=_pages.speller(PREFIXES, NAMES),
    positions=_pages.positions,
    images=images,
    load_vision=_load_vision,
)
