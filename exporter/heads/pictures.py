"""What a plan says of pictures: the vision graph's interface, and the inputs of a text graph that reads its
features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Head, Tensor
from ...runtime.engines import feed
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..checkpoint import Checkpoint

FLOATS = ("features", "pixel_values")
"""Inputs that are float32; all others are int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionPlan:
    """The vision graph and how pictures become its inputs."""

    images: Images
    inputs: tuple[Tensor, ...]
    output: Tensor


def vision(checkpoint: Checkpoint, heads: Mapping[str, Head], guesses: list[Guess]) -> VisionPlan | None:
    """Plans the vision graph; None where the family reads text only. Raises CheckpointError."""
    family = checkpoint.family.vision
    if family is None:
        return None
    images, width = _budgeted(checkpoint, family.images(checkpoint)), family.width(checkpoint.config)
    if images.apart:
        head = heads.get("embed")
        if head is None or head.dim != width:
            raise CheckpointError(
                f"{checkpoint.source}: its pictures become vectors of {width} values, its texts of "
                f"{head.dim if head else 'none'}; both must be alike"
            )
        output = Tensor(name=head.output, dtype="float32", axes=("batch", width))
    else:
        rows = "rows" if images.scheme == "patches" else images.tokens
        output = Tensor(name="features", dtype="float32", axes=("batch", rows, width))
    guesses.append(Guess("pictures", _words(images), "the processor's settings"))
    return VisionPlan(images=images, inputs=family.inputs(checkpoint), output=output)


def _budgeted(checkpoint: Checkpoint, images: Images) -> Images:
    """Returns how pictures are prepared, with the bounds that a recipe sets."""
    budget = checkpoint.recipe.pixels if checkpoint.recipe is not None else None
    if budget is None or images.patches is None:
        return images
    bounds = {"min_pixels": budget.min_pixels, "max_pixels": budget.max_pixels}
    changed = {name: bound for name, bound in bounds.items() if bound is not None}
    videos = images.videos
    if videos is not None:
        total, frame = budget.video_max_pixels, budget.frame_max_pixels
        most, share = (frame, None) if videos.per_frame else (total, frame)
        videos = replace(
            videos,
            max_pixels=most or videos.max_pixels,
            frame_pixels=share or videos.frame_pixels,
            total_pixels=(total if videos.per_frame else None) or videos.total_pixels,
            fps=budget.fps or videos.fps,
            max_frames=budget.max_frames or videos.max_frames,
        )
    return replace(images, patches=replace(images.patches, **changed), videos=videos)


def _words(images: Images) -> str:
    if images.patches is not None:
        size, merge = images.patches.size, images.patches.merge
        return (
            f"patches of {size} pixels, {merge * merge} for each token, from {images.patches.min_pixels} to "
            f"{images.patches.max_pixels} pixels; {images.resample} as in {images.kernel}"
        )
    cut = "tiles of" if images.tiling is not None else "resized to"
    return f"{cut} {images.width} x {images.height} pixels; {images.resample} as in {images.kernel}"


def tensors(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The inputs of a text graph by their names, with the axes that the runtime fills."""
    return tuple(
        Tensor(
            name=name,
            dtype="float32" if name in FLOATS else "int64",
            axes=tuple(_width(checkpoint) if axis is None else axis for axis in feed.LAYOUTS[name]),
        )
        for name in names
    )


def _width(checkpoint: Checkpoint) -> int:
    assert checkpoint.family.vision is not None, "only families with pictures read features"
    return checkpoint.family.vision.width(checkpoint.config)
