"""The scheme `fixed`: a picture becomes one row of the graph's size."""

from __future__ import annotations

import numpy as np

from ...artifact.images import Images
from ...errors import InputError
from ..items import VisionItem
from .medium import Region
from .resize import Window, resized
from .rows import Planes, fixed_row

MOST_SIDE = 65_536
"""Pixels of the longer side of a scaled picture, all of whose weights are computed."""


def row(images: Images, planes: Planes, *, resize: bool = True, field: str) -> VisionItem:
    """Returns the row of a picture [3, height, width].

    Args:
        resize: whether the picture is scaled before it is cut to the graph's size.
        field: named by errors.
    """
    return fixed_row(images, fitted(images, planes, resize=resize, field=field))


def fitted(images: Images, planes: Planes, *, resize: bool = True, field: str) -> Planes:
    """[3, height, width] of the graph: squashed, or scaled to the shorter side and cut from the middle.
    Where a side is too short for the cut, black stands beside it."""
    tall, wide = _size(images, *planes.shape[1:], resize=resize)
    if max(tall, wide) > MOST_SIDE:
        raise InputError(
            f"a picture has {planes.shape[2]} x {planes.shape[1]} pixels, one side may be "
            f"{MOST_SIDE // min(tall, wide)} times the other; crop it",
            field=field,
        )
    rows, columns = _middle(tall, images.height), _middle(wide, images.width)
    part = resized(
        planes, tall, wide, resample=images.resample, kernel=images.kernel, rows=rows, columns=columns
    )
    if part.shape[1:] == (images.height, images.width):
        return part
    canvas = np.zeros((3, images.height, images.width), np.uint8)
    top, left = (
        _margin(whole - size, images.kernel == "pillow")
        for whole, size in zip((images.height, images.width), part.shape[1:], strict=True)
    )
    canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return canvas


def region(images: Images, height: int, width: int, *, resize: bool = True) -> Region:
    """The part of a picture that its row shows."""
    edges: list[tuple[float, float]] = []
    for size, whole in zip(
        _size(images, height, width, resize=resize), (images.height, images.width), strict=True
    ):
        start, _ = _middle(size, whole)
        start -= _margin(max(whole - size, 0), images.kernel == "pillow")
        edges.append((start / size, (start + whole) / size))
    (top, bottom), (left, right) = edges
    return left, top, right, bottom


def _size(images: Images, height: int, width: int, *, resize: bool) -> tuple[int, int]:
    """Height and width of the scaled picture, of which the middle is cut out."""
    if not resize:
        return height, width
    if images.squashed is not None:
        return images.squashed
    if images.shortest_edge is None:
        return images.height, images.width
    return _scaled(height, width, images.shortest_edge)


def _scaled(height: int, width: int, shortest: int) -> tuple[int, int]:
    longest = int(shortest * max(height, width) / min(height, width))
    return (longest, shortest) if width <= height else (shortest, longest)


def _middle(size: int, cut: int) -> Window:
    start = max((size - cut) // 2, 0)
    return start, start + min(size, cut)


def _margin(missing: int, more_before: bool) -> int:
    """Pixels in front of a side that is too short. An odd one goes to the front with Pillow, to the end with
    torchvision."""
    return (missing + more_before) // 2
