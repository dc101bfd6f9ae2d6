"""How far two results of one text are apart, and how a message shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...runtime.outputs import Floats
from .library_texts import Case

_TINY = 1e-12


def least_cosine(ours: Floats, theirs: Floats) -> float:
    """Of two vectors [dim], or of the rows of [tokens, dim]. -1 where a number is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return -1.0
    if ours.size == 0:
        return 1.0
    a, b = np.atleast_2d(ours.astype(np.float64)), np.atleast_2d(theirs.astype(np.float64))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = np.abs(a - b).max(axis=-1) < _TINY
    return float(np.where(norms < _TINY, both_zero, (a * b).sum(axis=-1) / np.maximum(norms, _TINY)).min())


def largest_difference(ours: Floats, theirs: Floats) -> float:
    """Of two numbers, beyond 1 as a share of the library's. Infinite where a number is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    differences = np.abs(ours.astype(np.float64) - theirs) / np.maximum(1.0, np.abs(theirs))
    return float(differences.max(initial=0.0))


def lengths_apart(ours: Floats, theirs: Floats) -> float:
    """Largest difference of two rows' lengths, as a share of the library's."""
    a, b = (np.linalg.norm(np.atleast_2d(rows).astype(np.float64), axis=-1) for rows in (ours, theirs))
    return float((np.abs(a - b) / np.maximum(1e-3, b)).max(initial=0.0))


def shown_lengths(rows: Floats) -> str:
    return shown_numbers(np.linalg.norm(np.atleast_2d(rows), axis=-1))


def shown_numbers(values: Floats) -> str:
    flat = np.asarray(values).reshape(-1)
    return f"[{', '.join(f'{value:.4f}' for value in flat[:4])}{', ...' if len(flat) > 4 else ''}]"


def shown_ids(ids: Sequence[int], place: int) -> str:
    """Some ids around index `place`."""
    start = max(0, place - 2)
    shown = ", ".join(map(str, ids[start : start + 6]))
    return f"[{'..., ' if start else ''}{shown}{', ...' if len(ids) > start + 6 else ''}]"


def first_difference(what: str, case: Case, ours: Sequence[int], theirs: Sequence[int]) -> str | None:
    """A line that says where two lists differ first; None: nowhere."""
    if ours == theirs:
        return None
    place = next(
        (index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    return (
        f"{what} of {case}: poolrt {shown_ids(ours, place)} ({len(ours)}), the library "
        f"{shown_ids(theirs, place)} ({len(theirs)}), first apart at {place}"
    )
