"""A picture or a video as a prompt needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..items import VisionItem
from ..tilings.cut import WHOLE, Region

__all__ = ["WHOLE", "Medium", "Region", "Run"]


class Run(NamedTuple):
    """Tokens of features that follow one another in a prompt: one grid, or equal grids of a video's groups of
    frames."""

    rows: int
    columns: int
    times: tuple[int, ...] = (0,)
    """Of each grid: its steps in time behind the first one, ascending."""


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
    """(rows, columns) of features, for each picture, tile or group of frames."""
    times: tuple[int, ...] = ()
    """Of a video whose grids stand in the prompt without text between them: the steps in time of each of them
    behind the first one. Empty: each grid is a run of its own."""
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
    def runs(self) -> tuple[Run, ...]:
        """Its tokens, as far as they follow one another."""
        if self.times:
            return (Run(*self.grids[0], self.times),)
        return tuple(Run(rows, columns) for rows, columns in self.grids)

    @property
    def rows(self) -> int:
        """Rows of features of all items."""
        return sum(item.rows for item in self.items)
