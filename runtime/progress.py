"""Progress of a call: a bar of the caller's own, of tqdm, or a line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int], object]
"""Called with the number of items finished since the last call."""
Bar = bool | Callable[..., Any]
"""A progress bar: no, yes, or a callable with tqdm's arguments."""


@contextmanager
def bar(wanted: Bar, count: int) -> Iterator[Progress | None]:
    """Opens a progress bar for `count` items: the caller's own, tqdm's where installed, else a line on
    stderr. Yields the function to call with each number of finished items, None where no bar is wanted."""
    if not wanted:
        yield None
        return
    shown: Any = wanted if callable(wanted) else _tqdm()
    with shown(total=count, desc="Processed prompts") as opened:
        yield opened.update


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _Line
    return tqdm


class _Line:
    """The part of tqdm that `bar` uses."""

    def __init__(self, *, total: int, desc: str) -> None:
        self.total, self.desc, self.done = total, desc, 0

    def update(self, count: int) -> None:
        self.done += count
        print(f"\r{self.desc}: {self.done}/{self.total}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        print(file=sys.stderr)
