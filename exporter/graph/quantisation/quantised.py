"""What a quantisation did to a graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantised:
    """Names of nodes."""

    products: tuple[str, ...]
    """Products whose weights became integers."""
    tables: tuple[str, ...]
    """Embedding tables whose rows became integers."""
    kept: tuple[str, ...]
    """Products with weights that stay fp32: small ones, heads and those that the caller keeps."""
