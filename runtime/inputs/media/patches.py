"""The scheme `patches`: a picture becomes as many patches as its size asks for, within a budget of pixels.

SigLIP 2 counts patches instead (`Patches.fit`). For all others, four things follow Qwen2-VL's processor:
sides are multiples of a feature's side, the patches of one feature lie behind one another, a picture stands
for as many equal frames as a patch has, and a picture more than 200 times as long as wide is refused.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Images, Kernel, Patches
from ...errors import InputError
from ..items import VisionItem
from .normalise import normalise
from .resize import resized
from .rows import Planes, digest

MOST_RATIO = 200
"""Longer side to shorter side (Qwen2-VL)."""
NEAR = 1e-5
SCALES = (NEAR / 10, 100.0)
"""Between which SigLIP 2's processor searches, until it is as near."""


def row(images: Images, planes: Planes, *, resize: bool = True, most_pixels: int, field: str) -> VisionItem:
    """Returns the row of a picture [3, height, width].

    Args:
        resize: whether the picture is scaled; if not, its sides must be multiples of a feature's side.
        most_pixels: after scaling.
        field: named by errors.
    """
    patches = facts(images)
    height, width = planes.shape[1:]
    tall, wide = (
        target(patches, height, width, field=field) if resize else whole(patches, height, width, field)
    )
    check_budget(tall * wide, most_pixels, field)
    planes = resized(planes, tall, wide, resample=images.resample, kernel=images.kernel)
    return group_row(images, planes[:, None], images.kernel)


def facts(images: Images) -> Patches:
    assert images.patches is not None, "a manifest with the scheme `patches` says their sizes"
    return images.patches


def target(patches: Patches, height: int, width: int, *, field: str) -> tuple[int, int]:
    """Returns the height and width that a picture is scaled to, multiples of a feature's side."""
    factor = patches.size * patches.merge
    if patches.fit == "count":
        return counted(height, width, factor, patches.max_pixels // factor**2)
    check_ratio(height, width, field)
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    return fitted(
        tall, wide, tall * wide, height, width, height * width, factor, patches.min_pixels, patches.max_pixels
    )


def counted(height: int, width: int, factor: int, most: int) -> tuple[int, int]:
    """Returns the sides with the largest scale at which there are at most `most` patches.

    The scale is searched by halves, and a side is rounded up to a multiple of `factor`, as SigLIP 2's
    processor does both: the last steps decide which size it is.
    """
    low, high = SCALES
    while high - low >= NEAR:
        scale = (low + high) / 2
        tall, wide = (_scaled(scale, side, factor) for side in (height, width))
        if (tall // factor) * (wide // factor) <= most:
            low = scale
        else:
            high = scale
    return _scaled(low, height, factor), _scaled(low, width, factor)


def _scaled(scale: float, side: int, factor: int) -> int:
    return max(math.ceil(side * scale / factor) * factor, factor)


def fitted(
    tall: int,
    wide: int,
    volume: int,
    height: int,
    width: int,
    original: int,
    factor: int,
    least: int,
    most: int,
) -> tuple[int, int]:
    """Returns the rounded sides `tall` and `wide`, or sides scaled into the budget of pixels.

    Args:
        volume, original: pixels of all frames, with rounded sides and with the original ones.
    """
    if volume > most:
        shrink = math.sqrt(original / most)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if volume < least:
        grow = math.sqrt(least / original)
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return tall, wide


def check_ratio(height: int, width: int, field: str) -> None:
    if max(height, width) / min(height, width) > MOST_RATIO:
        raise InputError(
            f"a picture has {width} x {height} pixels, one side may be {MOST_RATIO} times the other; crop it",
            field=field,
        )


def check_budget(pixels: int, most: int, field: str) -> None:
    if pixels > most:
        raise InputError(
            f"a picture would be scaled to {pixels} pixels, at most {most} are prepared; lower max_pixels or "
            "min_pixels",
            field=field,
        )


def whole(patches: Patches, height: int, width: int, field: str) -> tuple[int, int]:
    """The sides of a picture that is not scaled."""
    factor = patches.size * patches.merge
    if height % factor or width % factor:
        raise InputError(
            f"a picture has {width} x {height} pixels and do_resize is off, expected multiples of {factor}",
            field=field,
        )
    return height, width


def group_row(images: Images, frames: Planes, kernel: Kernel) -> VisionItem:
    """The row of one group of frames [3, frames, height, width]; a picture is one frame, repeated."""
    patches = facts(images)
    rows, columns = (side // patches.size for side in frames.shape[2:])
    return VisionItem(
        arrays={
            "pixel_values": cut(images, frames, kernel),
            "patch_positions": positions(rows, columns, patches.merge),
        },
        rows=1 if images.apart else rows * columns // patches.merge**2,
        cost=rows * columns,
        digest=digest(images, frames, kernel),
    )


def cut(images: Images, frames: Planes, kernel: Kernel) -> NDArray[np.float32]:
    """[3, frames, height, width] -> normalised [patches, 3 * temporal * size * size], the patches of a
    feature behind one another. One frame is repeated."""
    patches = facts(images)
    channels, depth, height, width = frames.shape
    size, merge = patches.size, patches.merge
    rows, columns = height // size // merge, width // size // merge
    pieces = frames.reshape(channels, depth, rows, merge, size, columns, merge, size)
    pieces = np.ascontiguousarray(pieces.transpose(2, 5, 3, 6, 0, 1, 4, 7))
    pieces = pieces.reshape(rows, columns * merge * merge, channels, depth * size * size)
    values = np.empty((*pieces.shape[:3], patches.temporal * size * size), np.float32)
    # A row of features at a time stays in the processor's cache.
    for numbers, out in zip(pieces, values, strict=True):
        part = numbers.astype(np.float32)
        normalise(part, images.mean, images.std, kernel, axis=1)
        for repeat in range(patches.temporal // depth):
            out[:, :, repeat * part.shape[2] : (repeat + 1) * part.shape[2]] = part
    return values.reshape(rows * columns * merge * merge, -1)


def positions(rows: int, columns: int, merge: int) -> NDArray[np.int64]:
    """[patches, 4]: row, column, rows and columns of each patch, in the order of `cut`."""
    grid = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
    places = grid.transpose(1, 3, 2, 4, 0).reshape(rows * columns, 2)
    return np.concatenate([places, np.broadcast_to((rows, columns), places.shape)], axis=1)


def grid(item: VisionItem, merge: int) -> tuple[int, int]:
    """(rows, columns) of features of a row."""
    rows, columns = item.arrays["patch_positions"][0, 2:]
    return int(rows) // merge, int(columns) // merge
