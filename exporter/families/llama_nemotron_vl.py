"""Llama-Nemotron-VL: nvidia/llama-nemotron-embed-vl-1b-v2 and -rerank-vl-1b-v2, a SigLIP 2 tower over tiles
in front of a Llama with attention both ways.

Pictures are cut by NVIDIA's scoring of InternVL's grids. The reranker's logit is divided by `temperature`, as
by its authors' code; vLLM does not divide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...runtime.artifact.images import Images, Tiling
from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from ..files.recipe import template
from . import _decoders, _pages, _pictures
from ._transformers import backbone, refuse_strange
from .nemotron import pooled
from .registry import Architecture, Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

EMBEDS, RERANKS = "LlamaNemotronVLModel", "LlamaNemotronVLForSequenceClassification"
TEXT, VISION, PROJECTION = "language_model.", "vision_model.", "mlp1."
"""First parts of the names of tensors, behind OUTER."""
OUTER = ("base_model.model.", "model.")
HEADS = ("score.", "lm_head.", "language_model.score.", "language_model.lm_head.")
TOWER = {"image_size": 512, "patch_size": 16, "hidden_size": 1152}
"""For what vision_config leaves out."""
FACTS = {"ps_version": "v2", "select_layer": -1}
"""Settings of which one value is known."""
TILES = {"llama_nemotron_vl": 6, "llama_nemotron_vl_rerank": 2}
"""Most tiles of a picture where no file says it: the defaults of the published processors."""
PICTURE = "<image>"


def translate(config: Config) -> Config:
    """The language model's settings in front. `llm_config` stays as it is."""
    text = config.get("llm_config")
    text = dict(text) if isinstance(text, Mapping) else {}
    return {
        **_pictures.in_front(config, text),
        "vision_config": _pictures.inner(config, "vision_config", TOWER),
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    for key, known in FACTS.items():
        if (value := files.config.get(key, known)) != known:
            raise CheckpointError(f"{files.source}: {key} {value!r} of Llama-Nemotron-VL; expected {known!r}")
    settings = dict(files.config.get("llm_config") or {})
    settings |= {"model_type": "llama", "is_causal": False, "use_cache": False}
    model = backbone(
        files, "LlamaModel", config=settings, rename=lambda state: _part(files.source, state, TEXT)
    )
    return FeatureText(model)


def _part(source: str, state: Mapping[str, torch.Tensor], first: str) -> dict[str, torch.Tensor]:
    """The tensors of one part. Raises CheckpointError for names that no part has."""
    inside: dict[str, torch.Tensor] = {}
    strange: list[str] = []
    for stored, tensor in state.items():
        name = _bare(stored)
        if name.startswith(first) and not name.startswith(HEADS):
            inside[name.removeprefix(first)] = tensor
        elif not name.startswith((TEXT, VISION, PROJECTION, *HEADS)):
            strange.append(stored)
    refuse_strange(source, "Llama-Nemotron-VL", strange)
    return inside


def _bare(name: str) -> str:
    return _pages.spelled(name, OUTER, ())


def _load_vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules.tiles import ShuffledTower

    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _pages.renamed(
            _part(files.source, state, VISION), (), (("vision_model.", ""),), unused=("head.",)
        )

    settings = dict(files.config["vision_config"]) | {
        "model_type": "siglip_vision_model",
        "vision_use_head": False,
    }
    tower = backbone(files, "SiglipVisionModel", config=settings, rename=renamed)
    weights = {
        bare.removeprefix(PROJECTION): files.weights.read(stored)
        for stored in files.weights
        if (bare := _bare(stored)).startswith(PROJECTION)
    }
    wide = int(files.config["vision_config"]["hidden_size"]) * _shrink(files) ** 2
    return ShuffledTower(files.source, tower, weights, wide, files.number("hidden_size"), _shrink(files))


def _shrink(files: Files) -> int:
    """How many patches of a side become one feature. Raises CheckpointError."""
    ratio = files.config.get("downsample_ratio", 0.5)
    if not isinstance(ratio, int | float) or ratio <= 0 or (1 / ratio) % 1:
        raise CheckpointError(f"{files.source}: downsample_ratio {ratio!r}; expected one by a whole number")
    return int(1 / ratio)


def images(files: Files) -> Images:
    """Tiles of the tower's size. Raises CheckpointError for tiles that it has no positions for."""
    config, settings = files.config, processor.processor(files.source, files.inner)
    vision = config["vision_config"]
    side = int(config.get("force_image_size") or vision["image_size"])
    patches = _pages.square(files, vision, settings, {"height": side, "width": side})
    if settings.number("min_input_tiles", int(config.get("min_dynamic_patch") or 1)) != 1:
        raise CheckpointError(f"{files.source}: {settings.file} has min_input_tiles above 1; expected 1")
    most = config.get("max_dynamic_patch") or TILES.get(str(config.get("model_type")), 1)
    cuts = settings.flag("dynamic_image_size", bool(config.get("dynamic_image_size", True)))
    return Images(
        scheme="tiles",
        resample="bicubic",
        # Of its authors' code, and of vLLM for this model.
        kernel="pillow",
        mean=processor.HALF,
        std=processor.HALF,
        height=side,
        width=side,
        tiling=Tiling(
            rule="grid",
            most_tiles=settings.number("max_input_tiles", int(most), most=256) if cuts else 1,
            overview=settings.flag("use_thumbnail", bool(config.get("use_thumbnail", True))),
        ),
        tokens=patches // _shrink(files) ** 2,
        cost=patches,
        placeholder=PICTURE,
        token=_context(files),
        expansion="<img>{tokens}</img>",
    )


def _context(files: Files) -> str:
    """The token that stands for a feature. Raises CheckpointError where the tokenizer does not have it."""
    number = files.config.get("img_context_token_id", 128258)
    token = files.text.tokenizer.id_to_token(number) if isinstance(number, int) else None
    if token is None:
        raise CheckpointError(f"{files.source}: img_context_token_id {number!r} is no token of the tokenizer")
    return token


def roles(files: Files) -> dict[str, Role]:
    """A prefix for each side, pictures in front of the text, each with a space behind it."""
    settings = processor.processor(files.source, files.inner)
    sides = {"query": ("query", "q"), "document": ("passage", "p")}
    pictures = f'(media | replace("{PICTURE}", "{PICTURE} "))'
    known: dict[str, Role] = {}
    for side, (name, letter) in sides.items():
        prefix = str(settings.values.get(f"{name}_prefix") or f"{name}:").rstrip()
        limit = f"{letter}_max_length"
        known[side] = Role(
            template=_pages.expression(_pages.literal(f"{prefix} "), pictures, "text"),
            max_tokens=settings.number(limit, 1) if limit in settings.values else None,
        )
    return known


def score_template(files: Files) -> str:
    """The prompt of a query and a document, by the processor's `prompt_template`."""
    version = processor.processor(files.source, files.inner).values.get("prompt_template", "v1")
    return template("nemotron-vl-rerank.jinja" if version == "v1" else "nemotron-vl-rerank-bare.jinja")


def adapt(family: Architecture, config: Config) -> Architecture:
    return pooled(replace(family, prefixes=("model.", "language_model.", "model.language_model.")), config)


ARCHITECTURE = Architecture(
    model_types=tuple(TILES),
    names=(EMBEDS, RERANKS),
    inputs=_pages.INPUTS,
    load=load,
    translate=translate,
    adapt=adapt,
    pool="mean",
    positions=_decoders.positions,
    capped_by_tokenizer=False,
    roles=roles,
    score_template=score_template,
    vision=_pages.vision(images, _load_vision),
)
