"""The order of Pillow's passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def horizontal_first() -> Iterator[None]:
    """While open, Pillow scales a picture's width before its height, as every version did before 13, which
    turns the order for some sizes."""
    from PIL import Image

    plain = Image.Image.resize

    def resize(self: Any, size: Any, resample: Any = None, *arguments: Any, **options: Any) -> Any:
        wide = plain(self, (size[0], self.height), resample, *arguments, **options)
        return plain(wide, size, resample, *arguments, **options)

    Image.Image.resize = resize
    try:
        yield
    finally:
        Image.Image.resize = plain
