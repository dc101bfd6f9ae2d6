"""Fills a graph's inputs from items, by the axes that the manifest names.

Every input has the layout of its `Tensor.axes`: `batch` is one row per item, and along the other axis a row
is as long as its item and padded on the right. What is particular to an input or an axis is in `VALUES`
or `LENGTHS`, so a new kind of input is one more row there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import Tensor
from ..errors import ArtifactError
from ..inputs.items import Item

BATCH = "batch"


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
LENGTHS: dict[str, Callable[[Item], int]] = {"tokens": lambda item: len(item.ids)}
"""Axis -> the length of an item along it."""


class Feed:
    """The inputs of one graph. Raises ArtifactError for an input or an axis that this version cannot fill."""

    def __init__(self, inputs: Sequence[Tensor], *, pad_id: int) -> None:
        self.inputs = tuple(inputs)
        self._padding = {"input_ids": pad_id}
        for tensor in self.inputs:
            if tensor.name not in VALUES:
                known = ", ".join(VALUES)
                raise ArtifactError(
                    f"graph input {tensor.name!r}: this version fills {known}; update "
                    "poolrt, or export it again"
                )
            if len(tensor.axes) != 2 or tensor.axes[0] != BATCH or tensor.axes[1] not in LENGTHS:
                known = ", ".join(f"[{BATCH}, {axis}]" for axis in LENGTHS)
                raise ArtifactError(
                    f"graph input {tensor.name!r}: axes {list(tensor.axes)}, this version fills "
                    f"{known}; export it again"
                )
        axes = {str(tensor.axes[1]) for tensor in self.inputs}
        if len(axes) != 1:
            raise ArtifactError(
                f"graph inputs: their rows have the axes {sorted(axes)}, expected one "
                "for all; export it again"
            )
        self.length = LENGTHS[axes.pop()]
        """The length of an item's rows."""

    def arrays(
        self, items: Sequence[Item], *, rows: int | None = None, width: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Input name -> [rows, width] in the input's dtype, padded on the right. `rows` None: one per item;
        `width` None: that of the longest item."""
        lengths = [self.length(item) for item in items]
        shape = (len(items) if rows is None else rows, max(lengths) if width is None else width)
        return {tensor.name: self._filled(tensor, items, lengths, shape) for tensor in self.inputs}

    def _filled(
        self, tensor: Tensor, items: Sequence[Item], lengths: Sequence[int], shape: tuple[int, int]
    ) -> NDArray[Any]:
        value, padding = VALUES[tensor.name], self._padding.get(tensor.name, 0)
        array = np.full(shape, padding, dtype=tensor.dtype)
        for row, (item, length) in enumerate(zip(items, lengths, strict=True)):
            numbers = value.of(item)
            if numbers is not None:
                array[row, :length] = numbers
            elif value.absent != padding:
                array[row, :length] = value.absent
        if value.filler:
            array[len(items) :, 0] = value.filler
        return array


def values(name: str, item: Item) -> Sequence[int]:
    """What an item gives to the graph input of this name: one number per token, without padding."""
    value = VALUES[name]
    numbers = value.of(item)
    return [value.absent] * len(item.ids) if numbers is None else numbers
