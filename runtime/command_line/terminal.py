"""Colours, tables and progress on a terminal; plain lines in a pipe or file, and wherever NO_COLOR is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 110
"""Width of what is wrapped in a pipe or file."""


def console(*, stderr: bool = False) -> Console:
    """A rich console of one of the two streams of the process."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() or columns.isdecimal() else PIPE_COLUMNS
    return Console(file=stream, highlight=False, emoji=False, markup=False, width=width)


def failure(name: str, message: str) -> None:
    """Prints an error as one line on stderr."""
    if not sys.stderr.isatty():
        print(f"{name}: {message}", file=sys.stderr)
        return
    from rich.text import Text

    console(stderr=True).print(Text.assemble((f"{name}: ", "bold red"), message), soft_wrap=True)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Prints rows under a first row of titles.

    Args:
        right: columns of numbers, which are aligned to the right.
    """
    from rich.table import Table

    titles, *others = rows
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column, title in enumerate(titles):
        grid.add_column(title, justify="right" if column in right else "left", overflow="fold")
    for row in others:
        grid.add_row(*row)
    out = console()
    if not out.is_terminal:  # no line of a pipe is wrapped: each is a row for grep and awk
        out.width = max(out.width, 4096)
    with out.capture() as capture:
        out.print(grid)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def facts(lines: Sequence[str], *, problem: str = "not used: ") -> None:
    """Prints lines that begin with what they are about, in bold on a terminal, and problems in red."""
    from rich.text import Text

    out = console()
    for line in lines:
        name, _, _ = line.partition(" ")
        text = Text(line)
        text.stylize("bold cyan", 0, len(name))
        text.highlight_words([problem], "bold red")
        if name == "advice":
            text.stylize("yellow", len(name))
        out.print(text, soft_wrap=True)


def step(line: str) -> None:
    """Prints a line about work that goes on to stderr: the number of its step, or a note, in colour."""
    from rich.text import Text

    text = Text(line)
    text.highlight_regex(r"^\[\d+/\d+\]", "bold cyan")
    text.highlight_regex(r"^note:", "yellow")
    console(stderr=True).print(text, soft_wrap=True)


def bar(*, total: int, desc: str) -> Any:
    """A progress bar on stderr, with the part of tqdm that `progress.bar` uses."""
    return _Bar(total=total, desc=desc)


class _Bar:
    def __init__(self, *, total: int, desc: str) -> None:
        from rich import progress

        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task(desc, total=total)

    def update(self, count: int) -> None:
        self.progress.update(self.task, advance=count)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
