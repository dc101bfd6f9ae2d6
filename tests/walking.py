"""Which functions of the three areas a piece of work enters, in their order, over all of its threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).parents[1]
AREAS = ("exporter", "runtime", "serve")
FUNCTION = 1
"""CO_OPTIMIZED: the code of a function. Bodies of modules and classes run once, at import, and lack it."""


@dataclass
class Walk:
    entries: list[tuple[str, str]] = field(default_factory=list, repr=False)
    """(file from the repository's root, qualified name of the function), one for each call."""
    is_on: bool = False
    _places: dict[CodeType, tuple[str, str] | None] = field(default_factory=dict, repr=False)

    def entered(self, frame: FrameType, event: str, _: object) -> None:
        if not self.is_on or event != "call":
            return
        code = frame.f_code
        if code not in self._places:
            self._places[code] = _place(code)
        if (place := self._places[code]) is not None:
            self.entries.append(place)

    @property
    def files(self) -> list[str]:
        """Every file once, in the order of the first entry."""
        return list(dict.fromkeys(file for file, _ in self.entries))


def _place(code: CodeType) -> tuple[str, str] | None:
    path = Path(code.co_filename)
    if not code.co_flags & FUNCTION or not path.is_relative_to(ROOT):
        return None
    file = path.relative_to(ROOT)
    return (file.as_posix(), code.co_qualname) if file.parts[0] in AREAS else None


@contextmanager
def walking() -> Iterator[Walk]:
    """Notes calls while `is_on` is set, in this thread and in those that are started inside the block."""
    walk = Walk()
    before = sys.gettrace()
    # A trace function that returns None is called for calls only; a profile function for returns and C too.
    threading.settrace(walk.entered)
    sys.settrace(walk.entered)
    try:
        yield walk
    finally:
        sys.settrace(before)
        threading.settrace(before)  # pyright: ignore[reportArgumentType]
        walk.is_on = False
