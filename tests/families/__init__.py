"""Tiny checkpoints by family, each written in the layout of a published repository, and what proves them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

LONG = "which planet is known as the red planet? mars is in the sun of paris, venus and moon " * 40
TEXTS = (
    "",
    "a",
    "the red planet!",
    ("mars, known as the red planet, is deep in the passage of a document. ") * 2,
    LONG,
)
"""Nothing, the shortest, some that pad one another, and one that is cut at the model's limit."""


def find(name: str) -> Callable[[Path], Path]:
    """The builder of a tiny checkpoint of any family."""
    for module in pkgutil.iter_modules(__path__):
        if module.name == "proof":  # needs the package itself, which those who only write checkpoints do not
            continue
        known = getattr(importlib.import_module(f"{__name__}.{module.name}"), "ALL", {})
        if name in known:
            return known[name]
    raise KeyError(name)


def ids_of_texts(checkpoint: Path, most: int) -> list[list[int]]:
    """TEXTS as a checkpoint's own tokenizer.json reads them, cut to `most` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(most)
    return [tokenizer.encode(text).ids for text in TEXTS]
