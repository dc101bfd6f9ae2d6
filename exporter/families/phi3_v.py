"""Phi-3-Vision (https://arxiv.org/abs/2404.14219): CLIP over the tiles of a picture in front of Phi-3.
TIGER-Lab/VLM2Vec-Full makes its last token an embedding.

transformers has no class of it. config.json does not say the tower's sizes, which its tensors tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Tiling
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _decoders, _pages
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PICTURES = "vision_embed_tokens."
TOWER, PROJECTION = f"{PICTURES}img_processor.", f"{PICTURES}img_projection."
END, BORDER = f"{PICTURES}sub_GN", f"{PICTURES}glb_GN"
"""Rows of a line's end and of the border between the two views."""
OUTER = ("base_model.model.", "model.")
HEADS = ("lm_head.", "score.")
HEAD_WIDTH = 64
"""Of CLIP's towers."""
LAYOUT = {
    "use_hd_transform": True,
    "with_learnable_separator": True,
    "projection_cls": "mlp",
    "embedding_cls": "image",
}
"""Settings of `embd_layer` of which one value is known."""
ORDERS = ("sub_glb", "glb_sub")
MARK = "<|image|>"
IMAGE_ID = 32044
"""Of MARK in the published tokenizer."""


def translate(config: Config) -> Config:
    """Phi-3's settings: `su` is the older name of longrope."""
    settings = dict(config)
    scaling = settings.get("rope_scaling")
    if isinstance(scaling, Mapping):
        kind = scaling.get("rope_type", scaling.get("type"))
        kept = {key: value for key, value in scaling.items() if key != "type"}
        settings["rope_scaling"] = kept | {"rope_type": "longrope" if kind in ("su", "yarn") else kind}
    return settings


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    for key, known in LAYOUT.items():
        if (value := _embedding(files).get(key, known)) != known:
            raise CheckpointError(f"{files.source}: {key} {value!r} of embd_layer; expected {known!r}")
    own = ("embd_layer", "img_processor", "auto_map", "architectures")
    settings = {key: value for key, value in files.config.items() if key not in own}
    settings |= {"model_type": "phi3", "use_cache": False}
    return FeatureText(backbone(files, "Phi3Model", config=settings, rename=_text))


def _embedding(files: Files) -> Mapping[str, Any]:
    value = files.config.get("embd_layer")
    return value if isinstance(value, Mapping) else {}


def _bare(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return _pages.renamed(state, OUTER, (), unused=HEADS)


def _text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in _bare(state).items() if not name.startswith(PICTURES)}


def _name(stored: str) -> str:
    """A tensor's name without the prefixes in front of it."""
    return _pages.spelled(stored, OUTER, ())


def _shapes(files: Files) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of pictures, by their names behind TOWER or PICTURES."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stored, shape in files.weights.shapes.items():
        if (name := _name(stored)).startswith(PICTURES):
            shapes[name.removeprefix(TOWER).removeprefix("vision_model.")] = shape
    return shapes


def _vision(files: Files) -> dict[str, Any]:
    """CLIP's settings, from the shapes of its tensors. Raises CheckpointError where one is missing."""
    shapes, stated = _shapes(files), files.config.get("img_processor")
    stated = stated if isinstance(stated, Mapping) else {}
    try:
        width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
        places = shapes["embeddings.position_embedding.weight"][0] - 1
        inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{files.source}: the weights lack {TOWER}vision_model's {error}; download the repository again"
        ) from None
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers."))
    heads = int(stated.get("num_attention_heads") or max(width // HEAD_WIDTH, 1))
    if width % heads:
        raise CheckpointError(f"{files.source}: a vision model of width {width} with {heads} heads")
    return {
        "model_type": "clip_vision_model", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner, "patch_size": patch,
        "image_size": math.isqrt(places) * patch, "hidden_act": "quick_gelu", "projection_dim": width,
    }  # fmt: skip


def _load_vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules.clip_tiles import BorderTower

    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = ((TOWER, ""), ("vision_model.", ""))
        inside = {name: tensor for name, tensor in _bare(state).items() if name.startswith(TOWER)}
        return _pages.renamed(inside, (), names, unused=())

    tower = backbone(files, "CLIPVisionModel", config=_vision(files), rename=renamed)
    weights = {
        name: files.weights.read(stored)
        for stored in files.weights
        if (name := _name(stored)).startswith((PROJECTION, END, BORDER))
    }
    number = int((files.config.get("img_processor") or {}).get("layer_idx", -2))
    return BorderTower(files.source, tower, number, weights)


def images(files: Files) -> Images:
    """Tiles of the tower's size. Raises CheckpointError for other features than the processor counts."""
    settings = processor.images(files.source, files.inner)
    vision = _vision(files)
    side, patches = vision["image_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    counted = settings.number("num_img_tokens", patches // 4)
    if counted != patches // 4 or math.isqrt(patches) % 2:
        raise CheckpointError(
            f"{files.source}: {settings.file} counts {counted} tokens of a tile, the vision model gives "
            f"{patches // 4}"
        )
    order = _embedding(files).get("hd_transform_order", ORDERS[0])
    if order not in ORDERS:
        raise CheckpointError(
            f"{files.source}: hd_transform_order {order!r}; expected one of {', '.join(ORDERS)}"
        )
    mean, std = settings.normalisation(processor.CLIP_MEAN, processor.CLIP_STD)
    first = files.text.special.get("bos_token", "")
    return Images(
        scheme="tiles",
        resample="bilinear",
        # Of the published processor, which resizes Pillow's pictures.
        kernel="pillow",
        mean=mean,
        std=std,
        height=side,
        width=side,
        tiling=Tiling(
            rule="hd",
            most_tiles=settings.number("num_crops", 1, most=256),
            overview_first=order == ORDERS[1],
        ),
        # Beside the squares: a line's end and the border.
        tokens=counted + 2,
        cost=patches,
        placeholder="<|image_{number}|>",
        token=_mark(files),
        # The published processor tokenises the text on either side by itself, from its first token on.
        expansion=f"{{tokens}}{first}",
        opening=first,
    )


def _mark(files: Files) -> str:
    """The token that stands for a feature. Raises CheckpointError where the tokenizer has none."""
    tokenizer = files.text.tokenizer
    mark = MARK if tokenizer.token_to_id(MARK) is not None else tokenizer.id_to_token(IMAGE_ID)
    if mark is None:
        raise CheckpointError(f"{files.source}: the tokenizer has no {MARK}, which stands for pictures")
    return mark


ARCHITECTURE = _pages.language_model(
    model_types=("phi3_v",),
    names=("Phi3VModel", "Phi3VForCausalLM", "Phi3VForSequenceClassification"),
    load=load,
    translate=translate,
    prefixes=OUTER,
    positions=_decoders.positions,
    settings=("rope_scaling",),
    images=images,
    load_vision=_load_vision,
)
