"""What families with pictures share: settings of an inner config, and pictures of one fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import RGB, Images
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from .registry import Config

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files

TEXT_KEYS = ("vocab_size", "hidden_size", "max_position_embeddings", "num_hidden_layers")


def inner(config: Config, name: str, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`text_config` or `vision_config`, over the defaults of transformers' class and under the `_dict` form
    that old files have beside it."""
    older = config.get(f"{name}_dict")
    layers = (defaults, config.get(name), older if isinstance(older, Mapping) else None)
    return {key: value for layer in layers if isinstance(layer, Mapping) for key, value in layer.items()}


def with_text(config: Config, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json with the numbers of its text model where a text model has them. `defaults`: those of
    transformers' class for text_config."""
    text = inner(config, "text_config", defaults)
    return {**{key: text[key] for key in TEXT_KEYS if key in text}, **config}


def two_towers(config: Config, text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of two towers as the exporter reads it: with its text model's numbers at the
    top. `text`, `vision`: defaults of transformers' classes."""
    return {**with_text(config, text), "vision_config": inner(config, "vision_config", vision)}


def fixed(files: Files, *, size: Mapping[str, int], mean: RGB, std: RGB, **facts: Any) -> Images:
    """Pictures that all become one size: squashed to `height` and `width`, or the middle of a picture whose
    shorter side was scaled to `shortest_edge`.

    `size`, `mean`, `std`: defaults of the processor's class. `facts`: more fields of `Images`. Raises
    CheckpointError for a size that is not the vision model's.
    """
    settings = processor.images(files.source, files.inner)
    mean, std = settings.normalisation(mean, std)
    vision = inner(files.config, "vision_config")
    wanted = settings.size("size", size)
    edge = wanted.get("shortest_edge")
    crop = settings.size("crop_size", {"height": edge, "width": edge} if edge else wanted)
    if "shortest_edge" in crop:
        crop = {"height": crop["shortest_edge"], "width": crop["shortest_edge"]}
    shape = crop if edge is not None and settings.flag("do_center_crop", True) else wanted
    height, width = shape.get("height"), shape.get("width")
    side, patch = int(vision["image_size"]), int(vision["patch_size"])
    if (height, width) != (side, side) or not settings.flag("do_resize", True):
        raise CheckpointError(
            f"{files.source}: {settings.file} makes pictures of {width} x {height}, the vision model reads "
            f"{side} x {side}"
        )
    return Images(
        scheme="fixed",
        resample=settings.resample("bicubic"),
        kernel=settings.kernel(),
        background="white",
        mean=mean,
        std=std,
        height=side,
        width=side,
        shortest_edge=edge,
        cost=(side // patch) ** 2,
        **facts,
    )


def pixels(images: Images) -> tuple[Tensor, ...]:
    """The input of a vision graph whose pictures have one size."""
    return (Tensor(name="pixel_values", dtype="float32", axes=("batch", 3, images.height, images.width)),)
