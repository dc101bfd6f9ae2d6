"""What the families on Qwen2-VL and Qwen2.5-VL share: settings in both forms of config.json, names of
tensors, the two graphs, how pictures and videos are prepared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import RGB, Images, Patches, Resample, Videos
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _decoders
from ._qwen3_vl import END, INPUTS, PICTURE, START, UNLIKE_ROWS, VIDEO, refuse
from ._transformers import MOST_NAMES, backbone
from .registry import Architecture, Config, Layer, Vision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files
    from .modules.qwen2_vl import TextTower

OUTER = ("base_model.model.", "vlm.", "model.")
TEXT, VISION = "language_model", "visual"
INSIDE = ("layers", "embed_tokens", "norm")
"""First parts of the language model's names where files of transformers 4 put `model.` alone in front."""
HEADS = ("lm_head", "score", "classifier", "custom_text_proj", "embedding_proj_layer")
PREFIXES = tuple(
    outer + inner + tower
    for tower in ("", f"{TEXT}.")
    for outer, inner in itertools.product(("", "base_model.model.", "vlm."), ("", "model."))
    if outer or inner or tower
)
SIDES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Key of a processor -> key of vision_config."""
DEFAULTS = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
PICTURE_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
VIDEO_PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
FPS = 2.0
"""Frames of a video that vLLM reads for each second of it. transformers' processor states no number."""
PROJECTION = Layer(name="custom_text_proj", names=("embedding_proj_layer",), bias=None)
"""Of the ColQwen2 models, under their two names."""


def translate(config: Config) -> Config:
    """The text model's settings in front, as the rest of the exporter reads them."""
    text = config.get("text_config")
    text = dict(text) if isinstance(text, Mapping) else {}
    return {**text, **{key: value for key, value in config.items() if value is not None}}


def nested(config: Config, model_type: str) -> dict[str, Any]:
    """The settings as transformers' class reads them. Files of transformers 4 have those of the text model at
    the top."""
    own = ("vision_config", "tie_word_embeddings")
    settings = {key: config[key] for key in own if key in config}
    settings |= {key: value for key, value in config.items() if key.endswith("_token_id")}
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        left_out = (*settings, "architectures", "auto_map", "model_type", "id2label", "label2id")
        text = {key: value for key, value in config.items() if key not in left_out}
    vision = {**(settings.get("vision_config") or {}), "model_type": f"{model_type}_vision"}
    text = {**text, "model_type": f"{model_type}_text", "use_cache": False}
    return {**settings, "model_type": model_type, "text_config": text, "vision_config": vision}


def load(files: Files, *, model_type: str) -> TextTower:
    """The text tower, and beside it the vision tower. Raises CheckpointError for tensors without a place."""
    from .modules.qwen2_vl import TextTower

    kind = _decoders.rope(files.config).get("rope_type", "default")
    if kind in UNLIKE_ROWS:
        raise CheckpointError(
            f"{files.source}: rotary positions of type {kind!r}, which depend on the length of a text; "
            "Qwen2-VL is known with default and yarn"
        )
    name = "Qwen2VLModel" if model_type == "qwen2_vl" else "Qwen2_5_VLModel"
    settings = nested(files.config, model_type)
    return TextTower(backbone(files, name, config=settings, rename=partial(_inner, files.source)))


def _inner(source: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of both towers under today's names. Raises CheckpointError for names that nobody knows."""
    inside: dict[str, torch.Tensor] = {}
    strange: list[str] = []
    for name, tensor in state.items():
        bare = name
        while prefix := next((prefix for prefix in OUTER if bare.startswith(prefix)), ""):
            bare = bare.removeprefix(prefix)
        first = bare.split(".", 1)[0]
        if first in INSIDE:
            inside[f"{TEXT}.{bare}"] = tensor
        elif first in (TEXT, VISION):
            inside[bare] = tensor
        elif first not in HEADS:
            strange.append(name)
    if strange:
        more = f" and {len(strange) - MOST_NAMES} more" if len(strange) > MOST_NAMES else ""
        raise CheckpointError(
            f"{source}: tensors that Qwen2-VL has no place for: "
            f"{', '.join(sorted(strange)[:MOST_NAMES])}{more}; expected {VISION}, {TEXT} and a head"
        )
    return inside


def _load_vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules.qwen2_vl import VisionTower

    return VisionTower(text.visual)


def images(files: Files, *, videos: bool = True, timed: bool) -> Images:
    """How the processor files prepare pictures and, with `videos`, videos. Raises CheckpointError.

    `timed`: whether a step in time of a video's tokens is a part of a second (Qwen2.5-VL).
    """
    settings = processor.images(files.source, files.inner)
    sizes = PICTURE_PIXELS | settings.size()
    mean, std = settings.normalisation(processor.CLIP_MEAN, processor.CLIP_STD)
    sides, resample = _sides(files, settings), settings.resample("bicubic")
    return Images(
        scheme="patches",
        resample=resample,
        kernel=settings.kernel(),
        mean=mean,
        std=std,
        patches=Patches(
            size=sides["patch_size"],
            merge=sides["merge_size"],
            temporal=sides["temporal_patch_size"],
            min_pixels=_pixels(settings, "min_pixels", sizes["shortest_edge"]),
            max_pixels=_pixels(settings, "max_pixels", sizes["longest_edge"]),
        ),
        placeholder=f"{START}{PICTURE}{END}",
        token=PICTURE,
        videos=_videos(files, resample=resample, mean=mean, std=std, timed=timed) if videos else None,
    )


def _pixels(settings: processor.Settings, key: str, default: int) -> int:
    """A bound under its older name, which counts before `size`. null means that it is not stated."""
    return default if settings.values.get(key) is None else settings.number(key, default, most=1 << 40)


def _sides(files: Files, settings: processor.Settings) -> dict[str, int]:
    """The sizes of a patch and of a feature, by the processors' keys. Raises CheckpointError where the vision
    model reads others, or where the processor leaves pictures unscaled."""
    vision = files.config.get("vision_config") or {}
    sides = {name: settings.number(name, default) for name, default in DEFAULTS.items()}
    for name, key in SIDES.items():
        wanted = vision.get(key, DEFAULTS[name])
        if sides[name] != wanted:
            raise CheckpointError(
                f"{files.source}: {settings.file} says {name} {sides[name]}, config.json's vision_config "
                f"{key} {wanted}; one of the two is of another checkpoint"
            )
    refuse(files, settings, "do_resize" if not settings.flag("do_resize", True) else None)
    return sides


def _videos(files: Files, *, resample: Resample, mean: RGB, std: RGB, timed: bool) -> Videos:
    """`resample`, `mean`, `std`: those of pictures, whose file holds for videos where there is no other."""
    settings = processor.videos(files.source, files.inner, shared=True)
    assert settings is not None, "the settings of pictures are shared"
    sides = _sides(files, settings)
    sizes = VIDEO_PIXELS | settings.size()
    fps = FPS if settings.values.get("fps") is None else settings.values["fps"]
    unusual = {
        "num_frames": settings.values.get("num_frames") is not None,
        "fps": isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0,
    }
    refuse(files, settings, next((key for key, is_unusual in unusual.items() if is_unusual), None))
    vision = files.config.get("vision_config") or {}
    feature = (sides["patch_size"] * sides["merge_size"]) ** 2
    tokens = settings.number("max_video_tokens", 128000, most=1 << 30)
    capped = settings.flag("cap_pixels_per_frame", False)
    filtered = settings.resample("bicubic")
    means, stds = settings.normalisation(processor.CLIP_MEAN, processor.CLIP_STD)
    return Videos(
        placeholder=f"{START}{VIDEO}{END}",
        token=VIDEO,
        frame_text="{tokens}",
        fps=float(fps),
        min_frames=settings.number("min_frames", 4),
        max_frames=settings.number("max_frames", 768),
        sampling="steps",
        min_pixels=_pixels(settings, "min_pixels", sizes["shortest_edge"]),
        max_pixels=_pixels(settings, "max_pixels", sizes["longest_edge"]),
        per_frame=True,
        # Of the tokens of a conversation, transformers leaves a tenth to the text.
        total_pixels=int(tokens * feature * 0.9) if capped else None,
        ticks=float(vision.get("tokens_per_second", 4)) if timed else 0.0,
        resample=None if filtered == resample else filtered,
        mean=None if means == mean else means,
        std=None if stds == std else stds,
    )


def _vision_inputs(files: Files) -> tuple[Tensor, ...]:
    vision = files.config.get("vision_config") or {}
    side, frames = int(vision.get("patch_size", 14)), int(vision.get("temporal_patch_size", 2))
    # Files of transformers 4 have `in_chans` beside it, which no class reads.
    values = int(vision.get("in_channels", 3)) * frames * side * side
    return (
        Tensor(name="pixel_values", dtype="float32", axes=("batch", "patches", values)),
        Tensor(name="patch_positions", dtype="int64", axes=("batch", "patches", 4)),
        Tensor(name="patch_mask", dtype="int64", axes=("batch", "patches")),
    )


def family(*, body: str, videos: bool = True, **more: Any) -> Architecture:
    """The record of a family. `body`: model_type of its towers; `more`: further fields of the record."""
    settings: dict[str, Any] = {
        "model_types": (body,),
        "inputs": INPUTS,
        "load": partial(load, model_type=body),
        "translate": translate,
        "prefixes": PREFIXES,
        "pool": "last",
        "positions": _decoders.positions,
        "capped_by_tokenizer": False,
        "settings": ("rope_scaling",),
        "vision": Vision(
            images=partial(images, videos=videos, timed=body == "qwen2_5_vl"),
            inputs=_vision_inputs,
            load=_load_vision,
            width=lambda config: int(config["hidden_size"]),
        ),
    }
    return Architecture(**settings | more)
