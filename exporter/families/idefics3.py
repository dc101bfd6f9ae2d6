"""Idefics3 (https://arxiv.org/abs/2408.12637) and SmolVLM (https://arxiv.org/abs/2504.05299): a SigLIP tower
over tiles, a pixel shuffle, and a Llama. No embedder of these is published as it is: class names and
`--convert` make the last token a vector or scores of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from ...runtime.errors import CheckpointError
from . import _idefics3, _pages, _pictures, _smolvlm
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIXES = ("base_model.model.", "model.")
NAMES = (("vision_model.vision_model.", "vision_model."),)
UNUSED = ("lm_head.",)
KINDS = {"idefics3": "Idefics3Model", "smolvlm": "SmolVLMModel"}
"""model_type -> transformers' class. Their layers are alike."""
TOWER = {"image_size": 224, "patch_size": 32}
"""For what vision_config leaves out."""
IMAGE_ID = 128257
"""transformers' default of both."""
OWN = ("image_token_id", "scale_factor", "tie_word_embeddings")
"""Settings of the whole model that transformers' class reads."""


def translate(config: Config) -> Config:
    """The language model's settings in front. `text_config` and `vision_config` stay as they are."""
    text = _pictures.inner(config, "text_config")
    kind = str(config.get("model_type") or "idefics3")
    image_id = int(config.get("image_token_id", IMAGE_ID))
    return {
        **_pages.flat(_pictures.in_front(config, text), text, width=4096, rows=128256, image_id=image_id),
        "model_type": kind,
        "image_token_id": image_id,
        "vision_config": _pictures.inner(config, "vision_config", TOWER),
    }


spelled = _pages.speller(PREFIXES, NAMES, inside="text_model")
"""`Architecture.spelled`."""


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    config = files.config
    settings = {key: config[key] for key in OWN if config.get(key) is not None}
    settings["text_config"] = dict(config.get("text_config") or {}) | {"use_cache": False}
    settings["vision_config"] = dict(config["vision_config"])
    model = backbone(files, KINDS[config["model_type"]], config=settings, rename=_renamed)
    return FeatureText(model.text_model, model.vision_model, model.connector)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's Idefics3Model."""
    return _pages.renamed(state, PREFIXES, NAMES, unused=UNUSED)


def load_vision(files: Files, text: Any) -> nn.Module:
    from .modules.tiles import Idefics3Tower

    tower, connector = text.towers
    return Idefics3Tower(tower, connector, side(files))


def side(files: Files) -> int:
    """Patches of a tile's side. Raises CheckpointError for tiles that do not become whole features."""
    _, patch = _pictures.sides(files)
    pixels, factor = _idefics3.side(files), int(files.config.get("scale_factor", 2))
    patches = pixels // patch
    if patches < 1 or patches % factor:
        raise CheckpointError(
            f"{files.source}: tiles of {pixels} pixels have {patches} patches of {patch} a side, of which "
            f"{factor} become one feature; expected a multiple of {factor} in max_image_size"
        )
    return patches


def images(files: Files, **facts: Any) -> Images:
    """Tiles of the processor's size. Raises CheckpointError."""
    return _idefics3.images(
        files,
        patches=side(files) ** 2,
        factor=int(files.config.get("scale_factor", 2)),
        image_id=files.config["image_token_id"],
        **facts,
    )


def _pictures_and_videos(files: Files) -> Images:
    """`images`, and of SmolVLM videos. Raises CheckpointError."""
    prepared = images(files)
    return _smolvlm.with_videos(files, prepared) if files.config["model_type"] == "smolvlm" else prepared


ARCHITECTURE = _pages.language_model(
    model_types=tuple(KINDS),
    names=(
        "Idefics3Model",
        "Idefics3ForConditionalGeneration",
        "SmolVLMModel",
        "SmolVLMForConditionalGeneration",
    ),
    load=load,
    translate=translate,
    prefixes=(*PREFIXES, "text_model.", "model.text_model."),
    spelled=spelled,
    positions=_pages.positions,
    images=_pictures_and_videos,
    load_vision=load_vision,
)
