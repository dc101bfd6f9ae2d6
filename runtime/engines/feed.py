"""Fills a graph's inputs from items, by the axes that the manifest names.

`batch` is one row per item. Along `tokens` or `patches` a row is as long as its item and padded behind it.
`features` is an axis of the whole batch: the features of all its pictures, behind a row of zeros. So are
`past`, the tokens of its prefix, and `kept`, those whose keys and values it returns. What is particular to an
input is in `VALUES`, `FILLERS` or an item's own arrays, so a new kind of input is one more row there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import KEPT, PAST, Tensor
from ..errors import ArtifactError
from ..inputs.items import Item, VisionItem

BATCH, FEATURES = "batch", "features"
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Value:
    """What an item gives to the graph input of one name."""

    of: Callable[[Item], Sequence[int] | None]
    """One number for each place along the item. Where it is None, `absent` is written everywhere."""
    absent: int = 0
    filler: int = 0
    """Written at the first place of rows that belong to no item."""


VALUES: dict[str, Value] = {
    "input_ids": Value(attrgetter("ids")),
    # Rows that only fill a profile attend to one token: a softmax over no key is NaN.
    "attention_mask": Value(attrgetter("attention"), absent=1, filler=1),
    "token_type_ids": Value(attrgetter("type_ids")),
    "token_kinds": Value(attrgetter("kinds")),
}
"""Inputs [batch, tokens] with one number per token of a text."""


def _features(tensor: Tensor, items: Sequence[Item], shape: tuple[int, int]) -> Array:
    """[1 + features of all items, width]; row 0 is zero."""
    nothing = np.zeros((1, int(tensor.axes[1])), tensor.dtype)
    return np.concatenate([nothing, *(item.features for item in items if item.features is not None)])


def _feature_index(tensor: Tensor, items: Sequence[Item], shape: tuple[int, int]) -> Array:
    """[batch, tokens]: the row in `features` of each token that stands for a part of a picture, else 0."""
    index, used = np.zeros(shape, tensor.dtype), 1
    for row, item in enumerate(items):
        if item.feature_places is not None:
            index[row, item.feature_places] = np.arange(used, used + len(item.feature_places))
            used += len(item.feature_places)
    return index


def _position_ids(tensor: Tensor, items: Sequence[Item], shape: tuple[int, int]) -> Array:
    """[batch, 3, tokens]; 0 where nothing stands."""
    positions = np.zeros((shape[0], 3, shape[1]), tensor.dtype)
    for row, item in enumerate(items):
        count = len(item.ids)
        positions[row, :, :count] = np.arange(count) if item.positions is None else item.positions
    return positions


def _past(tensor: Tensor, items: Sequence[Item], shape: tuple[int, int]) -> Array:
    """[2 x layers, heads, past, width]: of the prefix that all items have; of no tokens where they have
    none."""
    prefix = items[0].prefix
    assert all(item.prefix is prefix for item in items), "a batch has one prefix"
    if prefix is None:
        return np.zeros([axis if isinstance(axis, int) else 0 for axis in tensor.axes], tensor.dtype)
    assert prefix.past is not None, "the prefix is not computed yet"
    return prefix.past


def _kept(tensor: Tensor, items: Sequence[Item], shape: tuple[int, int]) -> Array:
    """[kept]: all tokens of items that are prefixes themselves."""
    return np.arange(shape[1] if items[0].returns_past else 0, dtype=tensor.dtype)


FILLERS: dict[str, Callable[[Tensor, Sequence[Item], tuple[int, int]], Array]] = {
    "features": _features,
    "feature_index": _feature_index,
    "position_ids": _position_ids,
    PAST: _past,
    KEPT: _kept,
}
"""Inputs of a text graph that reads pictures or has prefixes: (input, items, (rows, width)) -> array."""


def _pictures(tensor: Tensor, items: Sequence[VisionItem], shape: tuple[int, int]) -> Array:
    """[batch, ...] of the items' own arrays, with zeros behind each and in rows that belong to no item."""
    rows, width = shape
    axes = [axis if isinstance(axis, int) else width for axis in tensor.axes[1:]]
    array = np.zeros((rows, *axes), tensor.dtype)
    for row, item in enumerate(items):
        values = item.arrays[tensor.name]
        array[row, : len(values)] = values
    return array


def _patch_mask(tensor: Tensor, items: Sequence[VisionItem], shape: tuple[int, int]) -> Array:
    """[batch, patches]: 1 for patches of a picture. A row that belongs to no item has one."""
    mask = np.zeros(shape, tensor.dtype)
    for row, item in enumerate(items):
        mask[row, : len(item.arrays["pixel_values"])] = 1
    mask[len(items) :, 0] = 1
    return mask


PICTURES: dict[str, Callable[[Tensor, Sequence[VisionItem], tuple[int, int]], Array]] = {
    "pixel_values": _pictures,
    "patch_positions": _pictures,
    "patch_mask": _patch_mask,
}
"""Inputs of a vision graph: (input, items, (rows, width)) -> array."""

LENGTHS: dict[str, Callable[[Any], int]] = {
    "tokens": lambda item: len(item.ids) - item.start,
    "patches": lambda item: len(item.arrays["pixel_values"]),
}
"""Axis -> the length of an item along it."""
LAYOUTS: dict[str, tuple[str | int | None, ...]] = {
    **dict.fromkeys((*VALUES, "feature_index"), (BATCH, "tokens")),
    "features": (FEATURES, None),
    "position_ids": (BATCH, 3, "tokens"),
    "patch_positions": (BATCH, "patches", 4),
    "patch_mask": (BATCH, "patches"),
    PAST: (None, None, PAST, None),
    KEPT: (KEPT,),
}
"""Input -> its axes; None: any fixed size. `pixel_values` is [batch, ...] or [batch, patches, ...]."""


class Feed:
    """The inputs of one graph. Raises ArtifactError for an input or an axis that this version cannot fill."""

    def __init__(self, inputs: Sequence[Tensor], *, pad_id: int = 0) -> None:
        self.inputs = tuple(inputs)
        self._padding = {"input_ids": pad_id}
        for tensor in self.inputs:
            _check(tensor)
        axes = {str(axis) for tensor in self.inputs for axis in tensor.axes if axis in LENGTHS}
        if len(axes) > 1 or not self.inputs:
            raise ArtifactError(
                f"graph inputs: their rows have the axes {sorted(axes)}, expected one "
                "for all; export it again"
            )
        self.length: Callable[[Any], int] = LENGTHS[axes.pop()] if axes else lambda item: item.cost
        """The length of an item's rows; where all rows have one size, the work of one."""

    def arrays(
        self, items: Sequence[Any], *, rows: int | None = None, width: int | None = None
    ) -> dict[str, Array]:
        """Input name -> array in the input's dtype, padded behind each row. `rows` None: one per item;
        `width` None: that of the longest item."""
        lengths = [self.length(item) for item in items]
        shape = (len(items) if rows is None else rows, max(lengths) if width is None else width)
        return {tensor.name: self._array(tensor, items, lengths, shape) for tensor in self.inputs}

    def _array(
        self, tensor: Tensor, items: Sequence[Any], lengths: Sequence[int], shape: tuple[int, int]
    ) -> Array:
        if tensor.name in VALUES:
            return self._filled(tensor, items, lengths, shape)
        return (FILLERS | PICTURES)[tensor.name](tensor, items, shape)

    def _filled(
        self, tensor: Tensor, items: Sequence[Item], lengths: Sequence[int], shape: tuple[int, int]
    ) -> Array:
        value, padding = VALUES[tensor.name], self._padding.get(tensor.name, 0)
        array = np.full(shape, padding, dtype=tensor.dtype)
        for row, (item, length) in enumerate(zip(items, lengths, strict=True)):
            numbers = value.of(item)
            if numbers is not None:
                array[row, :length] = numbers[item.start :]
            elif value.absent != padding:
                array[row, :length] = value.absent
        if value.filler:
            array[len(items) :, 0] = value.filler
        return array


def _check(tensor: Tensor) -> None:
    known = {**LAYOUTS, "pixel_values": (BATCH, *tensor.axes[1:])}
    layout = known.get(tensor.name)
    if layout is None:
        raise ArtifactError(
            f"graph input {tensor.name!r}: this version fills {', '.join(known)}; update "
            "poolrt, or export it again"
        )
    fits = len(layout) == len(tensor.axes) and all(
        isinstance(axis, int) if wanted is None else axis == wanted
        for axis, wanted in zip(tensor.axes, layout, strict=True)
    )
    if not fits or not all(
        isinstance(axis, int) or axis in (*LENGTHS, BATCH, FEATURES, PAST, KEPT) for axis in layout if axis
    ):
        expected = ", ".join("a size" if axis is None else str(axis) for axis in layout)
        raise ArtifactError(
            f"graph input {tensor.name!r}: axes {list(tensor.axes)}, this version fills "
            f"[{expected}]; export it again"
        )


def values(name: str, item: Item) -> Sequence[int]:
    """What an item gives to the graph input of this name: one number per token, without padding, those of a
    prefix included."""
    value = VALUES[name]
    numbers = value.of(item)
    return [value.absent] * len(item.ids) if numbers is None else numbers
