"""Other names of precisions, where a user may type them."""

from __future__ import annotations

_OTHERS = {
    "int8-weights": ("int8_weight_only", "int8wo", "w8a16"),
    "int4-weights": ("int4_weight_only", "int4wo", "w4a16", "int4"),
}
"""A precision of the manifest -> torchao's names of it, and those of vLLM's checkpoints."""
_NAMES = {other: precision for precision, others in _OTHERS.items() for other in others}


def precision(name: str) -> str:
    """Returns the manifest's name of a precision; any other name as it is."""
    return _NAMES.get(name.lower(), name)
