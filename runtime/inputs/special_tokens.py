"""The tokens that a tokenizer puts around a text, and around and between the two texts of a pair."""

from __future__ import annotations

from typing import NamedTuple, Self

from tokenizers import Tokenizer

from ..errors import ArtifactError


def around(tokenizer: Tokenizer, file: str) -> tuple[list[int], list[int]]:
    """The ids before and behind every single text. Raises ArtifactError that names `file`, the
    tokenizer's."""
    probe = next(
        (word for word in ("a", "the", "0") if tokenizer.encode(word, add_special_tokens=False).ids), "a"
    )
    bare = tokenizer.encode(probe, add_special_tokens=False).ids
    full = tokenizer.encode(probe, add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ArtifactError(f"{file}: its post-processor changes the tokens of a text; export the artifact again")


class Joint(NamedTuple):
    """What a tokenizer puts around and between the two sides of a pair, as (ids, type ids)."""

    start: tuple[list[int], list[int]]
    middle: tuple[list[int], list[int]]
    end: tuple[list[int], list[int]]
    types: tuple[int, int]
    """Type ids of the two sides."""

    @property
    def added(self) -> int:
        """How many tokens are added to those of the two sides."""
        return len(self.start[0]) + len(self.middle[0]) + len(self.end[0])

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Finds them by encoding a pair. Raises ArtifactError where the post-processor changes the sides."""
        left, right = (tokenizer.encode(word, add_special_tokens=False).ids for word in ("a b", "c d e"))
        whole = tokenizer.encode("a b", "c d e", add_special_tokens=True)
        ids, types = whole.ids, whole.type_ids
        for first in range(len(ids) - len(left) - len(right) + 1):
            after = first + len(left)
            if ids[first:after] != left:
                continue
            for second in range(after, len(ids) - len(right) + 1):
                last = second + len(right)
                if ids[second:last] == right:
                    return cls(
                        (ids[:first], types[:first]),
                        (ids[after:second], types[after:second]),
                        (ids[last:], types[last:]),
                        (types[first] if left else 0, types[second] if right else 0),
                    )
        raise ArtifactError(
            "tokenizer.json: its post-processor does not keep the tokens of a pair in order; "
            "export the artifact again"
        )

    def join(self, query: list[int], document: list[int]) -> list[int]:
        """The ids of a pair."""
        return [*self.start[0], *query, *self.middle[0], *document, *self.end[0]]

    def type_ids(self, query: int, document: int) -> list[int]:
        """The type ids of a pair with these numbers of tokens."""
        return [
            *self.start[1],
            *[self.types[0]] * query,
            *self.middle[1],
            *[self.types[1]] * document,
            *self.end[1],
        ]
