"""The prefixes that were computed last, and what a new text shares with them.

A token's keys and values depend on the tokens before it alone, so a prefix serves every text that begins with
some of its tokens. Prefixes are few and long, so they are compared one by one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..inputs.items import Prefix

LEAST = 16
"""Fewest tokens of a prefix: as many as one launch costs (docs/decisions/batching.md)."""
MOST = 256
"""Most prefixes that are kept. A search compares each of them."""
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A prefix and its tokens."""

    ids: Ids
    prefix: Prefix
    bytes: int


class PrefixCache:
    """Keeps the prefixes that were used last, up to a number of bytes. Safe to use from many threads.

    Args:
        most_bytes: of all prefixes together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        """Of the prefixes that are kept now."""
        self._kept: OrderedDict[tuple[str, bytes], Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, ids: Ids, salt: str, *, step: int = 1) -> Prefix | None:
        """The longest beginning of `ids` whose keys and values are kept, of at least LEAST tokens; None:
        nothing is.

        A prefix that is used whole is preferred to the beginning of a longer one where that saves less than
        LEAST tokens: texts run together only behind the same prefix, and a beginning is a copy.

        Args:
            salt: of the call; prefixes of calls with another salt are not looked at.
            step: a beginning of a kept prefix is cut to a multiple of so many tokens.
        """
        with self._lock:
            whole, part, reach = None, None, 0
            for key, kept in self._kept.items():
                if key[0] != salt:
                    continue
                shared = common(kept.ids, ids)
                if shared == len(kept.ids) and (whole is None or shared > len(whole[1].ids)):
                    whole = key, kept
                elif shared // step * step > reach:
                    part, reach = (key, kept), shared // step * step
            best = 0 if whole is None else len(whole[1].ids)
            if whole is not None and best >= LEAST and reach < best + LEAST:
                self._kept.move_to_end(whole[0])
                return whole[1].prefix
            if part is None or reach < LEAST:
                return None
            self._kept.move_to_end(part[0])
            past = part[1].prefix.past
        assert past is not None, "what is kept is computed"
        return self.put(ids[:reach], salt, np.ascontiguousarray(past[:, :, :reach]))

    def put(self, ids: Ids, salt: str, past: NDArray[np.float32], prefix: Prefix | None = None) -> Prefix:
        """Keeps a prefix, in place of those that were used longest ago. Returns it. One larger than the whole
        cache is not kept.

        Args:
            prefix: the record to fill in; None: a new one, or that which is kept of the same tokens.
        """
        key = salt, ids.tobytes()
        past.flags.writeable = False
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                self.bytes -= before.bytes
            if prefix is None:
                prefix = before.prefix if before is not None else Prefix(len(ids))
            prefix.past = past
            size = past.nbytes + ids.nbytes
            if size <= self.most_bytes:
                self._kept[key] = Kept(ids.copy(), prefix, size)
                self.bytes += size
            while self.bytes > self.most_bytes or len(self._kept) > MOST:
                self.bytes -= self._kept.popitem(last=False)[1].bytes
            return prefix


def common(a: Ids, b: Ids) -> int:
    """How many tokens both begin with."""
    count = min(len(a), len(b))
    differs = np.flatnonzero(a[:count] != b[:count])
    return int(differs[0]) if len(differs) else count


def beginning(rows: Sequence[list[int]]) -> Ids:
    """The tokens that all rows begin with, but for the last token of the shortest: a text is computed from
    its last token at least."""
    first, last = (np.array(row, np.int32) for row in (min(rows), max(rows)))
    return first[: min(common(first, last), min(map(len, rows)) - 1)]
