"""What families with pictures share: settings of an inner config, and pictures of one fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Tensor
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from ..files.pictures.classes import FIXED, SQUARE
from .registry import Config

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files

TEXT_KEYS = ("vocab_size", "hidden_size", "max_position_embeddings", "num_hidden_layers")


def inner(config: Config, name: str, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`text_config` or `vision_config`, over the defaults of transformers' class and under the `_dict` form
    that old files have beside it. transformers fills that one with the defaults too, and then takes it."""
    older = config.get(f"{name}_dict")
    layers = (defaults, config.get(name))
    if isinstance(older, Mapping):
        layers = (config.get(name), defaults, older)
    return {key: value for layer in layers if isinstance(layer, Mapping) for key, value in layer.items()}


def with_text(config: Config, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json with the numbers of its text model where a text model has them. `defaults`: those of
    transformers' class for text_config."""
    text = inner(config, "text_config", defaults)
    return {**{key: text[key] for key in TEXT_KEYS if key in text}, **config}


def in_front(config: Config, text: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the settings of its language model in front, as the rest of the exporter reads them.
    What it states itself counts before `text`."""
    return {**text, **{key: value for key, value in config.items() if value is not None}}


def two_towers(config: Config, text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model of two towers as the exporter reads it: with its text model's numbers at the
    top. `text`, `vision`: defaults of transformers' classes."""
    return {**with_text(config, text), "vision_config": inner(config, "vision_config", vision)}


def fixed(files: Files, kind: str, **facts: Any) -> Images:
    """Pictures that all become one size: squashed to `height` and `width`, or the middle of a picture that
    was scaled first.

    `kind`: the processor's class where the files name none, `CLIP` or `Siglip`. `facts`: more fields of
    `Images`. Raises CheckpointError for another class, and for a size that is not the vision model's.
    """
    settings = processor.images(files.source, files.inner)
    defaults = FIXED.get(settings.stem or kind)
    if defaults is None:
        known = ", ".join(f"{stem}ImageProcessor" for stem in FIXED)
        raise CheckpointError(
            f"{files.source}: {settings.file} names {settings.kind}, whose pictures poolrt does not prepare; "
            f"expected one of {known}"
        )
    mean, std = settings.normalisation(defaults.mean, defaults.std)
    side, patch = sides(files)
    size = settings.size("size", defaults.size, square=settings.flag("default_to_square", defaults.square))
    if settings.flag("use_square_size", False):
        size = dict(SQUARE)
    resize, cropped = settings.flag("do_resize", True), settings.flag("do_center_crop", defaults.cropped)
    edge = size.get("shortest_edge") if resize else None
    whole = (size.get("height"), size.get("width"))
    if resize and set(size) not in ({"height", "width"}, {"shortest_edge"}):
        raise CheckpointError(
            f"{files.source}: {settings.file} scales pictures to {size}; expected height and width, or "
            "shortest_edge"
        )
    if not cropped and (edge is not None or not resize):
        raise CheckpointError(
            f"{files.source}: {settings.file} leaves pictures their shape, the vision model reads "
            f"{side} x {side}; state height and width in `size`, or do_center_crop"
        )
    cut = settings.size("crop_size", defaults.crop, square=True)
    shape = (cut.get("height"), cut.get("width")) if cropped else whole
    padded = settings.size("pad_size", square=True) if settings.flag("do_pad", False) else {}
    if padded:
        shape = (padded.get("height"), padded.get("width"))
    if shape != (side, side):
        raise CheckpointError(
            f"{files.source}: {settings.file} makes pictures of {shape[1]} x {shape[0]}, the vision model "
            f"reads {side} x {side}"
        )
    squashed = (size["height"], size["width"]) if resize and edge is None else None
    return Images(
        scheme="fixed",
        resample=settings.resample(defaults.resample),
        kernel=settings.kernel(),
        background="white",
        mean=mean,
        std=std,
        height=side,
        width=side,
        shortest_edge=edge,
        squashed=None if squashed == (side, side) else squashed,
        resize=resize,
        cost=(side // patch) ** 2,
        **facts,
    )


def sides(files: Files) -> tuple[int, int]:
    """Pixels of a side of the vision model's pictures, and of its patches. Raises CheckpointError for sizes
    that are no squares, and for pictures that are not red, green and blue."""
    vision = inner(files.config, "vision_config")
    values = (vision["image_size"], vision["patch_size"])
    if not all(isinstance(value, int) for value in values) or vision.get("num_channels", 3) != 3:
        raise CheckpointError(
            f"{files.source}: its vision model reads {vision.get('num_channels', 3)} channels of "
            f"{values[0]} pixels in patches of {values[1]}; expected 3, and one number for each"
        )
    return values


def patches(values: int) -> tuple[Tensor, ...]:
    """The inputs of a vision graph whose pictures are patches of so many values."""
    return (
        Tensor(name="pixel_values", dtype="float32", axes=("batch", "patches", values)),
        Tensor(name="patch_positions", dtype="int64", axes=("batch", "patches", 4)),
        Tensor(name="patch_mask", dtype="int64", axes=("batch", "patches")),
    )


def pixels(images: Images) -> tuple[Tensor, ...]:
    """The input of a vision graph whose pictures have one size."""
    return (Tensor(name="pixel_values", dtype="float32", axes=("batch", 3, images.height, images.width)),)
