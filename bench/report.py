"""Writes the tables of bench/RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """First column to the left, the numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Median, and how far the rounds lay apart."""
    return f"{number(middle(values))} ({number(min(values))} to {number(max(values))})"


def cosine(value: float) -> str:
    """Digits where they differ from one."""
    return f"{value:.7f}" if value > 0.99999 else f"{value:.4f}"


def lines(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
