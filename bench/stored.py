"""What was measured of each work, kept so that a run goes on where it ended, and the report that is made of
it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import chart, report, tables
from .chart import Bar

HEAD = """# Results

Written by `make bench`; not edited by hand. Every line of one work was measured in the same run, the contenders taking turns (A B C A B C ...), so
that whatever else the machine did met all of them. Values are medians of the rounds, with the extremes in brackets.
Each speed stands beside its accuracy: the smallest cosine of any text to PyTorch in float32, both computed one text at a time.
No text is measured twice: equal texts may be computed once. Random weights answer nothing, and compute as fast as others.
Pictures are measured apart: [PICTURES.md](PICTURES.md)."""  # noqa: E501
TITLE = "How often as fast over HTTP as the server at 1.00×"


@dataclass(slots=True)
class Piece:
    """One work."""

    name: str
    title: str
    says: str
    facts: Mapping[str, str]
    """Under what conditions it was measured."""
    parts: list[str] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """A sentence for each contender that was left out or failed."""
    is_complete: bool = False

    def keep(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self) | {"bars": [list(bar) for bar in self.bars]}, indent=1)
        path = folder / f"{self.name}.json"
        path.with_suffix(".part").write_text(text + "\n", encoding="utf-8")
        path.with_suffix(".part").rename(path)


def read(folder: Path, name: str) -> Piece | None:
    """What was kept of a work; None where nothing was."""
    try:
        plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except OSError:
        return None
    return Piece(**plain | {"bars": [Bar(*bar) for bar in plain["bars"]]})


def write(out: Path, pieces: Sequence[Piece]) -> None:
    """The report and its chart. What all pieces have in common stands at its beginning."""
    if not pieces:
        return
    common = {
        name: value
        for name, value in pieces[0].facts.items()
        if all(piece.facts.get(name) == value for piece in pieces)
    }
    parts = [HEAD, report.lines(common), tables.HTTP_NOTE]
    sections = [(piece.title, piece.bars) for piece in pieces if piece.bars]
    if sections:
        picture = out.with_suffix(".svg")
        picture.write_text(chart.drawn(TITLE, sections), encoding="utf-8")
        parts.append(f"![{TITLE}]({picture.name})")
    for piece in pieces:
        parts.append(f"## {piece.title}\n\n{piece.says[0].upper()}{piece.says[1:]}.")
        own = {name: value for name, value in piece.facts.items() if name not in common}
        if own:
            parts.append(report.lines(own))
        parts += piece.parts
        if not piece.is_complete:
            parts.append("This work was not measured to its end.")
        if piece.missing:
            parts.append("Left out: " + "; ".join(piece.missing) + ".")
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
