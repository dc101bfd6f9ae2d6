"""Plots as SVG inside a page. Colours are classes of the page's style; each plot has its words in `title`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, ROW, TOP = 720, 200, 110, 26, 26
_LETTERS = 25
"""Of a label: wider ones would leave the plot where a font is wide."""


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    text: str
    """The value as it is written behind the bar."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one shape class is from the reference; 0 where nothing was seen."""

    label: str
    worst: float
    mean: float | None


def bars(title: str, rows: Sequence[Bar], *, most: float | None = None) -> Markup:
    """Horizontal bars.

    Args:
        most: the value of a whole bar; None: the largest.
    """
    whole = most or max((row.value for row in rows), default=0) or 1
    parts = []
    for number, row in enumerate(rows):
        y, length = TOP / 2 + number * ROW, (WIDTH - LEFT - RIGHT) * min(row.value / whole, 1)
        parts += [
            _label(row.label, y),
            f'<rect class="bar" x="{LEFT}" y="{y + 3}" width="{max(length, 0.5):.1f}" height="{ROW - 9}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 16}">{escape(row.text)}</text>',
        ]
    return _svg(title, parts, TOP + len(rows) * ROW)


def drifts(title: str, rows: Sequence[Drift], allowed: float) -> Markup:
    """A point for the worst and one for the mean of each shape class, on a logarithmic axis with the bound.

    Args:
        allowed: the drift that the export admits, > 0.
    """
    seen = [value for row in rows for value in (row.worst, row.mean or 0) if 0 < value < math.inf]
    low = math.floor(math.log10(min([*seen, allowed]))) - 1
    high = math.ceil(math.log10(max([*seen, allowed]))) + 0.2
    height = TOP + len(rows) * ROW + 24

    def x(value: float) -> float:
        place = low if value <= 0 else min(math.log10(value), high)
        return LEFT + (WIDTH - LEFT - 40) * (place - low) / (high - low)

    parts = []
    step = max(1, math.ceil((high - low) / 8))
    for power in range(low, math.floor(high) + 1, step):
        at = x(10.0**power) if power > low else x(0)
        text = f"1e{power}" if power > low else "0"
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{height - 24}"/>')
        parts.append(f'<text class="axis" x="{at:.1f}" y="{height - 8}">{text}</text>')
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        middle = y + ROW / 2
        parts.append(_label(row.label, y))
        if row.mean is not None:
            parts.append(f'<path class="span" d="M{x(row.mean):.1f} {middle}H{x(row.worst):.1f}"/>')
            parts.append(f'<circle class="mean" cx="{x(row.mean):.1f}" cy="{middle}" r="4.5"/>')
        parts.append(f'<circle class="worst" cx="{x(row.worst):.1f}" cy="{middle}" r="4.5"/>')
    bound = x(allowed)
    parts.append(f'<path class="bound" d="M{bound:.1f} {TOP - 6}V{height - 24}"/>')
    parts.append(f'<text class="axis bound" x="{bound:.1f}" y="{TOP - 10}">allowed</text>')
    return _svg(title, parts, height)


def _label(label: str, y: float) -> str:
    half = _LETTERS // 2
    shown = label if len(label) <= _LETTERS else f"{label[:half]}…{label[-half:]}"
    return f'<text class="label" x="{LEFT - 8}" y="{y + 16}">{escape(shown)}</text>'


def _svg(title: str, parts: Sequence[str], height: float) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"><title>{escape(title)}</title>{inside}</svg>'
    )
