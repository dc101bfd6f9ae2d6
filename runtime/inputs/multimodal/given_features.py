"""Pictures whose features the caller computed (vLLM's `image_embeds`): the vision graph is not run."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Images
from ...errors import InputError
from ..items import VisionItem
from ..media.medium import Medium
from .contents import Kind

FIELD = "image_embeds"


def medium(images: Images, kind: Kind, data: Mapping[str, Any], *, width: int) -> Medium:
    """The medium of {"image_embeds": [rows, width], "image_grid_thw": [1, rows, columns]}. Raises InputError.

    Args:
        width: of the features that the text graph reads.
    """
    values = data.get("image_embeds")
    if kind != "image" or values is None:
        raise InputError(
            f"{kind}: expected a picture or {{'image_embeds': ...}}, found an object with "
            f"{sorted(map(str, data))}",
            field="multi_modal_data",
        )
    features = _array(values)
    if features.ndim != 2 or features.shape[0] == 0 or features.shape[1] != width:
        raise InputError(
            f"image_embeds: an array of shape {list(features.shape)}, expected [rows, {width}]", field=FIELD
        )
    if not np.isfinite(features).all():
        raise InputError("image_embeds: some numbers are not finite", field=FIELD)
    rows = len(features)
    if images.apart or images.tiling is not None:
        raise InputError("image_embeds: this model takes pictures only; send the picture", field=FIELD)
    merge = 1 if images.patches is None else images.patches.merge
    grid = (1, rows)
    if data.get("image_grid_thw") is not None:
        grid = _grid(data["image_grid_thw"], merge, rows)
    elif images.patches is not None:
        raise InputError(
            "image_embeds: image_grid_thw is missing, [1, rows, columns] in patches", field=FIELD
        )
    item = VisionItem({}, rows, 0, hashlib.sha256(features.tobytes()).digest(), features)
    text = images.placeholder.replace(images.token, images.token * rows, 1)
    return Medium(kind="image", items=(item,), text=text, grids=(grid,))


def _array(values: Any) -> NDArray[np.float32]:
    """The features; without their batch axis, where they have one of length 1."""
    try:
        features = np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError):  # an integer beyond every float
        return np.empty(0, np.float32)
    return features[0] if features.ndim == 3 and len(features) == 1 else features


def _grid(values: Any, merge: int, rows: int) -> tuple[int, int]:
    """(rows, columns) of the features of one picture. Raises InputError."""
    try:
        grid = np.asarray(values)
    except ValueError:  # lists of different lengths
        grid = np.empty(0)
    whole = grid.dtype.kind in "iu" and grid.size == 3
    numbers = [int(number) for number in grid.reshape(-1)] if whole else []
    if not numbers or numbers[0] != 1 or min(numbers) < 1 or any(side % merge for side in numbers[1:]):
        raise InputError(
            f"image_grid_thw: {reprlib.repr(values)}, expected [1, rows, columns], whole numbers and "
            f"multiples of {merge}",
            field=FIELD,
        )
    high, wide = numbers[1] // merge, numbers[2] // merge
    if high * wide != rows:
        raise InputError(
            f"image_grid_thw: {numbers[1]} x {numbers[2]} patches are {high * wide} features, and "
            f"image_embeds has {rows}",
            field=FIELD,
        )
    return high, wide
