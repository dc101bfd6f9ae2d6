"""ColModernVBERT (https://arxiv.org/abs/2510.01149): a SigLIP tower over tiles, a pixel shuffle, ModernBERT,
and one vector of each token.

It is published in two layouts: transformers' own (`colmodernvbert` around `vlm_config`), and that of
colpali-engine, flat (`modernvbert`, often without `architectures`), whose oldest files hold the vocabulary in
two tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.artifact.images import Images
from ...runtime.errors import CheckpointError
from . import _idefics3, _pages
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

CLASSES = ("ColModernVBertForRetrieval", "ColModernVBert")
PREFIXES = ("base_model.model.", "vlm.", "model.")
NAMES = (
    ("vision_model.vision_model.", "vision_model."),
    ("connector.modality_projection.proj.", "connector.modality_projection."),
)
"""Beginnings of tensor names behind the prefixes: of older files and of today's transformers."""
UNUSED = ("vision_model.head.", "lm_head.")
TABLE, MORE = (f"text_model.embeddings.tok_embeddings.{name}weight" for name in ("", "additional_embedding."))
"""The vocabulary, and its last rows where a file keeps them apart."""
SPELLINGS = {"embed_dim": "hidden_size"}
"""Keys of the oldest vision settings -> today's."""
PROMPT = "<|begin_of_text|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
"""Around a page."""


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether config.json says ColModernVBERT, or is ModernVBERT's beside a projection of tokens."""
    return config.get("model_type") == "colmodernvbert" or _pages.projected(shapes)


def translate(config: Config) -> Config:
    """ModernVBERT's settings as `vlm_config`, and those of its text model at the top."""
    inner = dict(config.get("vlm_config") or config)
    text, vision = dict(inner.get("text_config") or {}), dict(inner.get("vision_config") or {})
    vision = {SPELLINGS.get(key, key): value for key, value in vision.items()} | {"vision_use_head": False}
    image_id = int(inner.get("image_token_id", 50407))
    kept = {key: inner[key] for key in ("image_token_id", "pixel_shuffle_factor") if key in inner}
    return {
        **_pages.flat(config, text, width=768, rows=50368, image_id=image_id),
        "model_type": "colmodernvbert",
        "architectures": list(CLASSES[:1]),
        "vlm_config": kept | {"model_type": "modernvbert", "text_config": text, "vision_config": vision},
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    settings = dict(files.config["vlm_config"])
    # Its rows may lie in two tables, whose sum no file states.
    settings["text_config"] = settings["text_config"] | {"vocab_size": _rows(files)}
    model = backbone(files, "ModernVBertModel", config=settings, rename=_renamed)
    return FeatureText(model.text_model, model.vision_model, model.connector)


def _rows(files: Files) -> int:
    """Rows of the vocabulary. Raises CheckpointError where no tensor holds it."""
    sizes = (
        files.weights.shapes[stored][0]
        for table in (TABLE, MORE)
        if (stored := files.weights.find(table, PREFIXES)) is not None
    )
    rows = sum(sizes)
    if not rows:
        raise CheckpointError(f"{files.source}: the weights lack {TABLE}; download the repository again")
    return rows


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's ModernVBertModel, the vocabulary as one table."""
    import torch

    tensors = _pages.renamed(state, PREFIXES, NAMES, unused=UNUSED)
    if (more := tensors.pop(MORE, None)) is not None:
        tensors[TABLE] = torch.cat((tensors[TABLE], more.to(tensors[TABLE].dtype)))
    return tensors


def images(files: Files) -> Images:
    """Tiles of the tower's size. Raises CheckpointError for tiles that it has no positions for."""
    vlm, settings, side = files.config["vlm_config"], _idefics3.settings(files), _idefics3.side(files)
    return _idefics3.images(
        files,
        patches=_pages.square(files, vlm["vision_config"], settings, {"height": side, "width": side}),
        factor=int(vlm.get("pixel_shuffle_factor", 4)),
        image_id=int(vlm.get("image_token_id", 50407)),
        # The published processor drops transparency before anything else.
        background="none",
    )


ARCHITECTURE = _pages.family(
    model_types=("colmodernvbert", "modernvbert"),
    names=CLASSES,
    load=load,
    matches=matches,
    translate=translate,
    prefixes=PREFIXES,
    spelled=_pages.speller(PREFIXES, NAMES, inside="text_model"),
    pool="cls",
    images=images,
    roles=lambda files: _idefics3.roles(files, PROMPT),
)
