"""A picture or a video as a prompt needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..items import VisionItem
from ..tilings.cut import WHOLE, Region

__all__ = ["WHOLE", "Medium", "Region"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A prepared picture or video."""

    kind: Literal["image", "video"]
    items: tuple[VisionItem, ...]
    """Their features, one item behind the other, fill the medium's tokens in order, if `order` says nothing
    else."""
    text: str
    """Replaces the placeholder in the prompt, with a token for each row of features. Empty where a picture
    never stands in a prompt."""
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of features, for each run of tokens."""
    regions: tuple[Region, ...] = ()
    """Of a picture: the part that each item shows."""
    size: tuple[int, int] = (0, 0)
    """Of a picture: height and width in pixels, as it was decoded and turned upright."""
    order: NDArray[np.int64] | None = None
    """[tokens]: the row of the items' features that each token stands for; a row may stand for several tokens
    or for none. None: all rows, in their order."""

    @property
    def tokens(self) -> int:
        """Tokens that stand for its features."""
        return self.rows if self.order is None else len(self.order)

    @property
    def rows(self) -> int:
        """Rows of features of all items."""
        return sum(item.rows for item in self.items)
