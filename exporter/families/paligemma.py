"""PaliGemma 1 and 2 (https://arxiv.org/abs/2407.07726, 2412.03555): a SigLIP tower in front of Gemma or
Gemma 2. `--convert` makes the last token a vector or scores of it.

A prompt is the prefix of what the model would write, and all tokens of a prefix attend to one another, which
lifts Gemma 2's windows as well.
"""

from __future__ import annotations

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
TEXTS = ("gemma", "gemma2")
IMAGE_ID = 256000
"""transformers' default."""


def translate(config: Config) -> Config:
    """The language model's settings in front. `text_config` and `vision_config` stay as they are."""
    text = {"model_type": "gemma"} | _pictures.inner(config, "text_config")
    vision = colpali.VISION if config.get("vision_config") else colpali.WHOLE_VISION
    image_id = int(config.get("image_token_index", config.get("image_token_id", IMAGE_ID)))
    return {
        **_pages.flat(_pictures.in_front(config, text), text, width=2048, rows=257152, image_id=image_id),
        "text_config": text,
        "vision_config": _pictures.inner(config, "vision_config", vision) | {"vision_use_head": False},
        "image_token_index": image_id,
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    config = files.config
    text = dict(config["text_config"])
    if text["model_type"] not in TEXTS:
        raise CheckpointError(
            f"{files.source}: PaliGemma over {text['model_type']!r}; expected {' or '.join(TEXTS)}"
        )
    text |= {"is_causal": False, "use_bidirectional_attention": True, "use_cache": False}
    if text["model_type"] == "gemma2":
        text["layer_types"] = ["full_attention"] * int(text.get("num_hidden_layers", 26))
    settings = {"model_type": "paligemma", "text_config": text, "vision_config": config["vision_config"]}
    settings |= {key: config[key] for key in ("image_token_index", "projection_dim") if key in config}
    # Only transformers' eager attention caps the scores of Gemma 2.
    attention = "eager" if text["model_type"] == "gemma2" else "sdpa"
    model = backbone(files, "PaliGemmaModel", attention=attention, config=settings, rename=_renamed)
    return FeatureText(model.language_model, model.vision_tower, model.multi_modal_projector)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's PaliGemmaModel."""
    return _pages.renamed(state, PREFIXES, colpali.NAMES, unused=colpali.UNUSED)


def images(files: Files) -> Images:
    """A picture squashed to the tower's size. Raises CheckpointError for a size that it has no positions
    for.

    The prompt is that of PaliGemma's processor: the first token of a text behind the last picture, a line
    break at the end.
    """
    side, patch = _pictures.sides(files)
    tokens = (side // patch) ** 2
    _pages.stated(files, processor.images(files.source, files.inner), "image_seq_length", tokens)
    token = _pages.placeholder(files, files.config["image_token_index"])
    picture = _pages.literal(token)
    begin = _pages.literal(files.text.special.get("bos_token", ""))
    parts = f"{{% set parts = (media ~ text).rsplit({picture}, 1) %}}"
    return _pictures.fixed(
        files,
        "Siglip",
        tokens=tokens,
        placeholder=token,
        token=token,
        prompt=parts + _pages.expression("parts[0]", picture, begin, "parts[1]", _pages.literal("\n")),
    )


ARCHITECTURE = _pages.language_model(
    model_types=("paligemma",),
    names=("PaliGemmaModel", "PaliGemmaForConditionalGeneration"),
    load=load,
    translate=translate,
    prefixes=(*PREFIXES, "language_model.", "model.language_model."),
    spelled=_pages.speller(PREFIXES, colpali.NAMES),
    positions=lambda config: _pages.positions(config) or 8192,
    settings=("use_bidirectional_attention", "attn_logit_softcapping"),
    images=images,
)
