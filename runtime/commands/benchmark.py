"""A quick measurement of one artifact in this process, for `poolrt bench`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..model import Model

HEADER = f"{'texts':<24}{'texts/s':>10}{'tokens/s':>10}{'padding':>9}{'p50 ms':>9}"
_WORDS = (
    "the of model and text in a search query to document which is was said an engine server between "
    "city for river under new light people"
)


@dataclass(frozen=True, slots=True)
class Line:
    texts: str
    texts_per_s: float
    tokens_per_s: float
    padding: float
    """Computed token slots over tokens, minus 1."""
    p50_ms: float
    """Of one call, in milliseconds."""

    def text(self) -> str:
        speed = f"{self.texts_per_s:>10.1f}{self.tokens_per_s:>10.0f}"
        return f"{self.texts:<24}{speed}{self.padding:>9.1%}{self.p50_ms:>9.1f}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def measure(model: Model, seconds: float) -> Iterator[Line]:
    """Yields a line per kind of call: 1 text, 32 of one length, 32 of mixed lengths.

    Args:
        seconds: how long each kind is repeated, three times at least.
    """
    generator = np.random.default_rng(0)
    words = _WORDS.split()

    def text(length: int) -> str:
        return " ".join(generator.choice(words, length))

    model.warm_up()
    for count, length in ((1, 16), (32, 16), (32, 64), (32, 256)):
        if length <= model.max_tokens:
            yield _line(f"{count} of ~{length} words", model, [text(length) for _ in range(count)], seconds)
    # Lengths of real collections: mostly short, a few long.
    lengths = np.clip(generator.lognormal(3.5, 0.9, 32), 3, model.max_tokens)
    yield _line("32 of mixed lengths", model, [text(int(length)) for length in lengths], seconds)


def _line(name: str, model: Model, texts: list[str], seconds: float) -> Line:
    task = model.tasks[0]
    model.encode(texts, pooling_task=task, truncate_prompt_tokens=-1)
    took: list[float] = []
    tokens, padding = 0, 0.0
    while sum(took) < seconds or len(took) < 3:
        begun = time.perf_counter()
        outputs = model.encode(texts, pooling_task=task, truncate_prompt_tokens=-1)
        took.append(time.perf_counter() - begun)
        tokens, padding = outputs.prompt_tokens, outputs.padding
    median = float(np.median(took))
    return Line(name, len(texts) / median, tokens / median, padding, median * 1e3)
