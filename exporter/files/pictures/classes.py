"""Defaults of transformers' picture processors that make pictures of one fixed size, by the stem of their
name.

A file states a part of the settings only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....runtime.artifact.images import RGB, Resample
from .processor import CLIP_MEAN, CLIP_STD, HALF

SQUARE = {"height": 224, "width": 224}


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Of one class."""

    size: Mapping[str, int]
    resample: Resample
    mean: RGB
    std: RGB
    square: bool = False
    """Whether a plain number is a height and a width."""
    cropped: bool = False
    """Whether the middle of a picture is cut out."""
    crop: Mapping[str, int] | None = None


FIXED: dict[str, Defaults] = {
    "CLIP": Defaults(
        size={"shortest_edge": 224},
        resample="bicubic",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        cropped=True,
        crop=SQUARE,
    ),
    "Siglip": Defaults(size=SQUARE, resample="bicubic", mean=HALF, std=HALF),
    "Gemma3": Defaults(size=SQUARE, resample="bilinear", mean=HALF, std=HALF),
    "ViT": Defaults(size=SQUARE, resample="bilinear", mean=HALF, std=HALF, square=True),
}
