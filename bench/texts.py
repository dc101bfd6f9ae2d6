"""The texts of every measurement: sentences of bench/sentences.txt, joined and cut to mixed lengths, from one
seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SENTENCES = tuple(Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").split("\n")[:-1])
TOKENS_PER_WORD = 1.15
"""Of these sentences under MiniLM's tokenizer, punctuation included; only steers the lengths, the
report states the real ones."""


@dataclass(frozen=True, slots=True)
class Mix:
    name: str
    count: int
    shortest: int
    """In tokens, roughly; special tokens not counted."""
    longest: int
    says: str


MIXES = (
    Mix("queries", 256, 7, 13, "short queries, about 12 tokens"),
    Mix("passages", 64, 158, 205, "passages, about 180 tokens"),
    Mix("mixed", 128, 6, 240, "8 to 250 tokens, short ones more frequent"),
)


def words(rng: np.random.Generator, count: int) -> str:
    """`count` words of running text: whole sentences in random order, the last one cut."""
    running: list[str] = []
    while len(running) < count:
        running += SENTENCES[rng.integers(len(SENTENCES))].split()
    return " ".join(running[:count])


def texts(mix: Mix, *, seed: int = 0, count: int | None = None) -> list[str]:
    """The first `count` texts of the mix (None: all), of log-uniform lengths between its bounds."""
    rng = np.random.default_rng([seed, *mix.name.encode()])
    tokens = np.exp(rng.uniform(np.log(mix.shortest), np.log(mix.longest), size=mix.count))
    return [words(rng, max(1, round(length / TOKENS_PER_WORD))) for length in tokens[:count]]


def twenty_words(count: int, *, seed: int = 0) -> list[str]:
    """Texts of exactly 20 words, for the tables of one text per request."""
    rng = np.random.default_rng([seed, 20])
    return [words(rng, 20) for _ in range(count)]
