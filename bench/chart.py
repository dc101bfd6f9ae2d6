"""A chart of bars, as SVG: how many times as fast as the basis each contender is, one group for each work."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, LEFT, RIGHT = 900, 220, 70
BAR, GAP, HEADING, TITLE = 16, 4, 22, 34
COLOURS = ("#2166ac", "#4393c3", "#92c5de", "#d6604d", "#f4a582", "#999999", "#bababa", "#e0e0e0")


class Bar(NamedTuple):
    group: str
    label: str
    value: float


def drawn(title: str, sections: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """SVG of all sections' bars. The line at 1 is the basis.

    Args:
        sections: (heading, bars), the bars of one group side by side.
    """
    largest = max((bar.value for _, bars in sections for bar in bars), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / max(largest, 1.0)
    labels = list(dict.fromkeys(bar.label for _, bars in sections for bar in bars))
    shapes: list[str] = [_text(10, 22, title, size=16, bold=True)]
    top = TITLE
    for heading, bars in sections:
        top += HEADING
        shapes.append(_text(10, top - 6, heading, bold=True))
        group = ""
        for bar in bars:
            if bar.group != group:
                group = bar.group
                top += HEADING
                shapes.append(_text(20, top - 6, group))
            length = max(1.0, bar.value * scale)
            colour = COLOURS[labels.index(bar.label) % len(COLOURS)]
            shapes.append(_text(LEFT - 8, top + BAR - 4, bar.label, anchor="end"))
            shapes.append(f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
            shapes.append(_text(LEFT + length + 6, top + BAR - 4, f"{bar.value:.2f}×"))
            top += BAR + GAP
    line = LEFT + scale
    height = top + 10
    shapes.append(
        f'<line x1="{line:.1f}" y1="{TITLE}" x2="{line:.1f}" y2="{top}" '
        'stroke="#333" stroke-dasharray="4 3"/>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *shapes, "</svg>", ""])


def _text(x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
    )
