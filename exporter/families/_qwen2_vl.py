"""What the families on Qwen2-VL and Qwen2.5-VL share: settings in both forms of config.json, names of
tensors, the two graphs, how pictures and videos are prepared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import RGB, Images, Patches, Resample, Videos
from ..files.pictures import processor
from . import _decoders, _pages
from ._qwen3_vl import (
    END,
    INPUTS,
    PICTURE,
    PREFIXES,
    START,
    VIDEO,
    agreed,
    apart,
    both_towers,
    rate,
    spelled,
    translate,
    vision_inputs,
)
from .registry import Architecture, Config, Vision

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files
    from .modules.qwen2_vl import TextTower

HEADS = ("lm_head", "score", "classifier", "custom_text_proj", "embedding_proj_layer")
DEFAULTS = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
PICTURE_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
VIDEO_PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
FPS = 2.0
"""Frames of a video that vLLM reads for each second of it. transformers' processor states no number."""


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


def load(files: Files, *, model_type: str, heads: tuple[str, ...] = HEADS) -> TextTower:
    """The text tower, and beside it the vision tower. Raises CheckpointError for tensors without a place.

    `heads`: first parts of names that belong to heads.
    """
    from .modules.qwen2_vl import TextTower

    name = "Qwen2VLModel" if model_type == "qwen2_vl" else "Qwen2_5_VLModel"
    settings = nested(files.config, model_type)
    return TextTower(both_towers(files, name, settings, heads=heads, inside=_pages.INSIDE))


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
    sides, resample = agreed(files, settings, DEFAULTS, DEFAULTS), settings.resample("bicubic")
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


def _videos(files: Files, *, resample: Resample, mean: RGB, std: RGB, timed: bool) -> Videos:
    """`resample`, `mean`, `std`: those of pictures, whose file holds for videos where there is no other."""
    settings = processor.videos(files.source, files.inner, shared=True)
    assert settings is not None, "the settings of pictures are shared"
    sides = agreed(files, settings, DEFAULTS, DEFAULTS)
    sizes = VIDEO_PIXELS | settings.size()
    stated = settings.values.get("fps")
    fps = rate(files, settings, FPS if stated is None else stated)
    vision = files.config.get("vision_config") or {}
    feature = (sides["patch_size"] * sides["merge_size"]) ** 2
    tokens = settings.number("max_video_tokens", 128000, most=1 << 30)
    capped = settings.flag("cap_pixels_per_frame", False)
    usual = processor.CLIP_MEAN, processor.CLIP_STD
    return Videos(
        placeholder=f"{START}{VIDEO}{END}",
        token=VIDEO,
        frame_text="{tokens}",
        fps=fps,
        min_frames=settings.number("min_frames", 4),
        max_frames=settings.number("max_frames", 768),
        sampling="steps",
        min_pixels=_pixels(settings, "min_pixels", sizes["shortest_edge"]),
        max_pixels=_pixels(settings, "max_pixels", sizes["longest_edge"]),
        per_frame=True,
        # Of the tokens of a conversation, transformers leaves a tenth to the text.
        total_pixels=int(tokens * feature * 0.9) if capped else None,
        ticks=float(vision.get("tokens_per_second", 4)) if timed else 0.0,
        **apart(settings, usual, resample=resample, mean=mean, std=std),
    )


def family(*, body: str, videos: bool = True, **more: Any) -> Architecture:
    """The record of a family. `body`: model_type of its towers; `more`: further fields of the record."""
    settings: dict[str, Any] = {
        "model_types": (body,),
        "inputs": INPUTS,
        "load": partial(load, model_type=body),
        "translate": translate,
        "prefixes": PREFIXES,
        "spelled": spelled,
        "pool": "last",
        "positions": _decoders.positions,
        "capped_by_tokenizer": False,
        "settings": ("rope_scaling",),
        "vision": Vision(
            images=partial(images, videos=videos, timed=body == "qwen2_5_vl"),
            # Files of transformers 4 have `in_chans` beside in_channels, which no class reads.
            inputs=partial(vision_inputs, patch=DEFAULTS["patch_size"]),
            load=_load_vision,
            width=lambda config: int(config["hidden_size"]),
        ),
    }
    return Architecture(**settings | more)
