"""The texts of every measurement: pieces of the sentences of bench/sentences.txt, joined and cut to mixed
lengths, from one seed. No two are equal, since equal texts may be computed once, or their beginnings kept."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

SENTENCES = tuple(
    tuple(line.split())
    for line in Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").split("\n")[:-1]
)
TOKENS_PER_WORD = 1.15
"""Of these sentences under MiniLM's tokenizer, punctuation included; only steers the lengths, the
report states the real ones."""
TRIES = 1000


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
    Mix("mixed", 128, 6, 220, "8 to 250 tokens, short ones more frequent"),
)


class Source:
    """Texts that are the same for one seed, and never equal to one that this source gave before."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._seen: set[str] = set()

    def words(self, count: int) -> str:
        """`count` words of running text: ends of sentences, the last one cut."""
        for _ in range(TRIES):
            running: list[str] = []
            while len(running) < count:
                sentence = self._random.choice(SENTENCES)
                running += sentence[self._random.randrange(len(sentence)) :]
            text = " ".join(running[:count])
            if text not in self._seen:
                self._seen.add(text)
                return text
        raise ValueError(f"no text of {count} words is left that this source has not given yet")

    def text(self, mix: Mix) -> str:
        """One of the mix, of a log-uniform length between its bounds."""
        tokens = math.exp(self._random.uniform(math.log(mix.shortest), math.log(mix.longest)))
        return self.words(max(1, round(tokens / TOKENS_PER_WORD)))

    def texts(self, mix: Mix, count: int | None = None) -> list[str]:
        return [self.text(mix) for _ in range(mix.count if count is None else count)]
