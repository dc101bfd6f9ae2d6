"""A picture or a video as a prompt needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..items import VisionItem

Region = tuple[float, float, float, float]
"""Left, top, right and bottom, as parts of the picture's width and height. Beyond 0..1 where a picture that
is smaller than the graph's has black beside it."""
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A prepared picture or video."""

    kind: Literal["image", "video"]
    items: tuple[VisionItem, ...]
    """Their features, one item behind the other, fill the medium's tokens in order."""
    text: str
    """Replaces the placeholder in the prompt, with a token for each row of features. Empty where a picture
    never stands in a prompt."""
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of features, for each run of tokens."""
    regions: tuple[Region, ...] = ()
    """Of a picture: the part that each item shows."""
    size: tuple[int, int] = (0, 0)
    """Of a picture: height and width in pixels, as it was decoded and turned upright."""

    @property
    def tokens(self) -> int:
        """Tokens that stand for its features."""
        return sum(item.rows for item in self.items)
