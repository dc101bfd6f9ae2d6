"""What the families on Qwen3-VL share: names of tensors, settings, the two graphs, how pictures are prepared.

They differ in four facts: whether attention is causal, whether the last norm is applied, the head, and the
prompt. Qwen3-VL is published under Qwen/, ColQwen3 by Tomoro, Ops-ColQwen3 by OpenSearch-AI and Nemotron
ColEmbed by NVIDIA.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import RGB, Images, Patches, Resample, Videos
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _decoders, _pages, _pictures
from ._transformers import backbone, refuse_strange
from .registry import Architecture, Config, Layer, Vision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files
    from .modules.qwen3_vl import TextTower

INPUTS = ("input_ids", "attention_mask", "features", "feature_index", "position_ids")
TEXT, VISION = "language_model", "visual"
"""First parts of the names of the towers' tensors, behind a prefix."""
OUTER = ("base_model.model.", "vlm.", "model.")
PREFIXES = tuple(
    outer + inner + tower
    for tower in ("", f"{TEXT}.")
    for outer, inner in itertools.product(("", "base_model.model.", "vlm."), ("", "model."))
    if outer or inner or tower
)
HEADS = ("lm_head", "custom_text_proj", "embedding_proj_layer", "score", "classifier", "mtp")
"""First parts of names that belong to heads. A language model's output is left out where no head needs it,
and layers that guess several words ahead (`mtp`) always are."""
START, END = "<|vision_start|>", "<|vision_end|>"
PICTURE, VIDEO = "<|image_pad|>", "<|video_pad|>"
PROJECTION = Layer(name="custom_text_proj", names=("embedding_proj_layer",), bias=None)
"""Of the ColQwen2 and ColQwen3 models, under its two names."""
# The defaults of transformers' processors for what a file leaves out.
MOST_VIDEO_PIXELS = {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}
MOST_PICTURE_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
SIDES = {
    "patch_size": "patch_size",
    "spatial_merge_size": "merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Key of vision_config -> key of the processors."""
VISION_SIDES = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
"""The defaults of the vision model and of the video processor."""
PICTURE_SIDES = {**VISION_SIDES, "patch_size": 14}
"""The defaults of the picture processor."""
UNLIKE_ROWS = ("dynamic", "longrope")
spelled = _pages.speller(OUTER, ((f"{TEXT}.model.", f"{TEXT}."), (f"{TEXT}.lm_head.", "lm_head.")))
"""`Architecture.spelled`: `model.layers` and `visual` before transformers 4.52, since then
`language_model.layers`, with or without `model.`."""


def translate(config: Config) -> Config:
    """The text model's settings in front, as the rest of the exporter reads them. `text_config` and
    `vision_config` stay as they are."""
    text = config.get("text_config")
    text = dict(text) if isinstance(text, Mapping) else {}
    return _pictures.in_front(config, text)


def nested(config: Config, model_type: str = "qwen3_vl") -> dict[str, Any]:
    """The settings as transformers' class of `model_type` reads them."""
    own = ("text_config", "vision_config", "tie_word_embeddings")
    settings = {key: config[key] for key in own if key in config}
    tokens = {key: value for key, value in config.items() if key.endswith("_token_id")}
    vision = dict(settings.get("vision_config") or {})
    # Files of 4.57 and their copies name the tower by the whole model or by its class.
    vision["model_type"] = f"{model_type}_vision"
    text = {**(settings.get("text_config") or {}), "model_type": f"{model_type}_text"}
    return {**tokens, **settings, "model_type": model_type, "text_config": text, "vision_config": vision}


def load(files: Files, *, causal: bool, normed: bool) -> TextTower:
    """The text tower, and beside it the vision tower. Raises CheckpointError for tensors without a place."""
    from .modules.qwen3_vl import TextTower

    model = both_towers(files, "Qwen3VLModel", nested(files.config))
    return TextTower(model, causal=causal, normed=normed)


def both_towers(
    files: Files,
    name: str,
    settings: Mapping[str, Any],
    *,
    heads: tuple[str, ...] = HEADS,
    inside: tuple[str, ...] = (),
) -> Any:
    """transformers' class `name` with the weights of both towers. Raises CheckpointError for tensors without
    a place.

    Args:
        settings: those of config.json as the class reads them.
        heads: first parts of names that belong to heads.
        inside: first parts of the language model's names where files leave out TEXT in front.
    """
    kind = _decoders.rope(files.config).get("rope_type", "default")
    if kind in UNLIKE_ROWS:
        raise CheckpointError(
            f"{files.source}: rotary positions of type {kind!r}, which depend on the length of a text; "
            f"{name} is known with default and yarn"
        )
    return backbone(
        files,
        name,
        config=settings,
        rename=partial(_inner, files.source, name.removesuffix("Model"), heads=heads, inside=inside),
    )


def _inner(
    source: str,
    family: str,
    state: dict[str, torch.Tensor],
    *,
    heads: tuple[str, ...],
    inside: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """The tensors without prefixes. Raises CheckpointError for names that nobody knows."""
    placed: dict[str, torch.Tensor] = {}
    strange: list[str] = []
    for name, tensor in state.items():
        bare = _pages.spelled(name, OUTER, ())
        first = bare.split(".", 1)[0]
        if first in inside:
            placed[f"{TEXT}.{bare}"] = tensor
        elif first in (TEXT, VISION, *heads):
            # The class has no place for a head, and reports it, so that an adapter may change one.
            placed[bare] = tensor
        else:
            strange.append(name)
    refuse_strange(source, family, strange, f"{VISION}, {TEXT} and a head")
    return placed


def _load_vision(files: Files, text: nn.Module) -> nn.Module:
    from .modules.qwen3_vl import VisionTower

    return VisionTower(text.visual)


def images(files: Files, *, videos: bool = True) -> Images:
    """How the processor files prepare pictures and videos. Raises CheckpointError.

    `videos`: whether the settings of pictures count for videos where no file has others.
    """
    settings = processor.images(files.source, files.inner)
    sizes = MOST_PICTURE_PIXELS | settings.size()
    mean, std = settings.normalisation(processor.CLIP_MEAN, processor.CLIP_STD)
    sides, resample = agreed(files, settings, PICTURE_SIDES), settings.resample("bicubic")
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
            min_pixels=settings.number("min_pixels", sizes["shortest_edge"], most=1 << 40),
            max_pixels=settings.number("max_pixels", sizes["longest_edge"], most=1 << 40),
        ),
        placeholder=f"{START}{PICTURE}{END}",
        token=PICTURE,
        videos=_videos(files, resample=resample, mean=mean, std=std, shared=videos),
    )


def agreed(
    files: Files,
    settings: processor.Settings,
    defaults: Mapping[str, int],
    seen: Mapping[str, int] = VISION_SIDES,
) -> dict[str, int]:
    """The sizes of a patch and of a feature, by the processors' keys. `defaults`: those of the processor;
    `seen`: those of the vision model.

    Raises CheckpointError where the vision model reads others, or where a processor does something else that
    `Images` cannot say.
    """
    vision = files.config.get("vision_config") or {}
    sides = {name: settings.number(name, default) for name, default in defaults.items()}
    for key, name in SIDES.items():
        wanted = vision.get(key, seen[name])
        if sides[name] != wanted:
            raise CheckpointError(
                f"{files.source}: {settings.file} says {name} {sides[name]}, config.json's vision_config "
                f"{key} {wanted}; one of the two is of another checkpoint"
            )
    refuse(files, settings, "do_resize" if not settings.flag("do_resize", True) else None)
    return sides


def refuse(files: Files, settings: processor.Settings, key: str | None) -> None:
    """Raises CheckpointError for a setting that `Images` cannot say; None: there is none."""
    if key is not None:
        raise CheckpointError(
            f"{files.source}: {settings.file} says {key} {settings.values.get(key)}, which poolrt does not "
            "follow; remove it to export without it"
        )


def _videos(files: Files, *, resample: Resample, mean: RGB, std: RGB, shared: bool) -> Videos | None:
    """`resample`, `mean`, `std`: those of pictures."""
    settings = processor.videos(files.source, files.inner, shared=shared)
    if settings is None:
        return None
    sides = agreed(files, settings, VISION_SIDES)
    sizes = MOST_VIDEO_PIXELS | settings.size()
    sampled = "do_sample_frames" if not settings.flag("do_sample_frames", True) else None
    refuse(files, settings, sampled)
    fps = rate(files, settings, settings.values.get("fps", 2))
    capped = settings.flag("cap_pixels_per_frame", False)
    side = sides["patch_size"] * sides["merge_size"]
    return Videos(
        # The outer marks stay around the groups of frames, as transformers has it since 5.10, and vLLM.
        placeholder=f"{START}{VIDEO}{END}",
        token=VIDEO,
        frame_text=f"<{{seconds}} seconds>{START}{{tokens}}{END}",
        fps=fps,
        min_frames=settings.number("min_frames", 4),
        max_frames=settings.number("max_frames", 768),
        min_pixels=sizes["shortest_edge"],
        max_pixels=sizes["longest_edge"],
        frame_pixels=settings.number("max_video_tokens", 768) * side**2 if capped else None,
        **apart(settings, (processor.HALF, processor.HALF), resample=resample, mean=mean, std=std),
    )


def rate(files: Files, settings: processor.Settings, fps: object) -> float:
    """`fps`, the frames of a video that are read for each second. Raises CheckpointError for anything but a
    number above 0, and for a count of frames beside it."""
    refuse(files, settings, "num_frames" if settings.values.get("num_frames") is not None else None)
    number = fps if isinstance(fps, int | float) and not isinstance(fps, bool) and fps > 0 else None
    refuse(files, settings, "fps" if number is None else None)
    assert number is not None, "any other value is refused"
    return float(number)


def apart(
    settings: processor.Settings, usual: tuple[RGB, RGB], *, resample: Resample, mean: RGB, std: RGB
) -> dict[str, Any]:
    """The fields of `Videos` in which videos are prepared otherwise than pictures; None: alike.

    Args:
        settings: of the video processor.
        usual: mean and standard deviation of its class.
        resample, mean, std: those of pictures.
    """
    filtered, (means, stds) = settings.resample("bicubic"), settings.normalisation(*usual)
    return {
        "resample": None if filtered == resample else filtered,
        "mean": None if means == mean else means,
        "std": None if stds == std else stds,
    }


def vision_inputs(files: Files, patch: int = VISION_SIDES["patch_size"]) -> tuple[Tensor, ...]:
    """The inputs of the vision graph. `patch`: the class's size of a patch where no file states one."""
    vision = files.config.get("vision_config") or {}
    side, frames = int(vision.get("patch_size", patch)), int(vision.get("temporal_patch_size", 2))
    return _pictures.patches(int(vision.get("in_channels", 3)) * frames * side * side)


def _width(config: Config) -> int:
    vision = config.get("vision_config") or {}
    indexes = vision.get("deepstack_visual_indexes", (8, 16, 24))
    # Blocks behind the last one give nothing, as in transformers.
    levels = {index for index in indexes if 0 <= index < vision.get("depth", 27)}
    return int(config["hidden_size"]) * (1 + len(levels))


def with_setting(files: Files, template: str, name: str, *, stored: str, default: str) -> str:
    """`template` behind a line that sets its variable `name` to the setting `stored` of the processor.

    `default`: what the processor's class has where no file states it.
    """
    value = processor.processor(files.source, files.inner).values.get(stored)
    # A Jinja text is written as one of JSON.
    return f"{{%- set {name} = {json.dumps(default if value is None else str(value))} -%}}" + template


VISION_HALF = Vision(images=images, inputs=vision_inputs, load=_load_vision, width=_width)


def family(
    *,
    model_types: tuple[str, ...],
    names: tuple[str, ...],
    causal: bool = True,
    normed: bool = True,
    videos: bool = True,
    **more: Any,
) -> Architecture:
    """The record of a family on Qwen3-VL; `more` are further fields of it. `videos`: as in `images`."""
    return Architecture(
        model_types=model_types,
        names=names,
        inputs=INPUTS,
        load=partial(load, causal=causal, normed=normed),
        translate=translate,
        prefixes=PREFIXES,
        spelled=spelled,
        pool="last",
        positions=_decoders.positions,
        capped_by_tokenizer=False,
        settings=("rope_scaling",),
        vision=replace(VISION_HALF, images=partial(images, videos=videos)),
        **more,
    )
