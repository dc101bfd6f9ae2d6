"""Opens a tokenizer.json that is not trusted. Its size is limited, and where the library fails or panics, the
caller gets the reason as ValueError."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from ..errors import is_failure, reason
from . import growth

# Four times the largest published one (33 MB, Gemma 3).
MOST_BYTES = 128 << 20


def content(path: Path) -> bytes:
    """The bytes of a file. Raises ValueError for one that is too long, before it is read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes, more than any tokenizer has ({MOST_BYTES} are allowed)")
    return path.read_bytes()


def opened(raw: bytes) -> Tokenizer:
    """The tokenizer, without the truncation and padding of its training run. Raises ValueError with the
    reason in one line."""
    try:
        text = raw.decode("utf-8")
        described = json.loads(text)
        if not isinstance(described, dict):
            raise ValueError(f"expected a JSON object, found {type(described).__name__}")
        # Checked before the library reads it, because the library normalises added tokens while it reads.
        explosive = growth.problem(described)
        if explosive is not None:
            raise ValueError(explosive)
        del described
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:
        if not is_failure(error):
            raise
        raise ValueError(reason(error)) from None
    return tokenizer
