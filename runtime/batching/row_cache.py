"""Rows that were computed before, features of pictures and outputs of texts, by the digest of what decides
them."""

from __future__ import annotations

import threading
from collections import OrderedDict

from .queue import Row


class RowCache:
    """Keeps the rows that were used last, up to a number of bytes. Safe to use from many threads.

    Args:
        most_bytes: of all rows together; 0: nothing is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.hits = 0
        """Rows that were found."""
        self.bytes = 0
        """Of the rows that are kept now."""
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Row | None:
        """Returns the row of a digest, which nobody may change; None where it is not kept."""
        with self._lock:
            row = self._rows.get(digest)
            if row is not None:
                self._rows.move_to_end(digest)
                self.hits += 1
            return row

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def put(self, digest: bytes, row: Row) -> None:
        """Keeps a row, in place of those that were used longest ago. One larger than the whole cache is not
        kept."""
        if row.nbytes > self.most_bytes:
            return
        with self._lock:
            if (before := self._rows.pop(digest, None)) is not None:
                self.bytes -= before.nbytes
            row.flags.writeable = False
            self._rows[digest] = row
            self.bytes += row.nbytes
            while self.bytes > self.most_bytes:
                self.bytes -= self._rows.popitem(last=False)[1].nbytes
