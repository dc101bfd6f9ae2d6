"""Counts of the pictures and videos that requests bring: how many, from where, how large, how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client.core import Metric

from .histogram import SECONDS, Counters, Histograms


class MediaMetrics:
    """Any thread may add: pictures are read in the threads that prepare requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        where = ("modality", "source")
        self._items = Counters(
            "poolrt_media_items", "Pictures and videos read, by where they came from.", where
        )
        self._bytes = Counters("poolrt_media_bytes", "Bytes of them, encoded.", where)
        self._read = Histograms(
            "poolrt_media_read_seconds", "Time to fetch or decode the bytes.", where, SECONDS
        )
        self._prepared = Histograms(
            "poolrt_media_prepare_seconds", "Time to decode and resize one.", ("modality",), SECONDS
        )

    def read(self, modality: str, source: str, size: int, seconds: float) -> None:
        """Counts one that was read.

        Args:
            source: data, file, http or uuid.
            size: bytes.
        """
        with self._lock:
            self._items.add(1, modality, source)
            self._bytes.add(size, modality, source)
            self._read.of(modality, source).observe(seconds)

    def prepared(self, modality: str, seconds: float) -> None:
        """Counts one that was decoded and resized."""
        with self._lock:
            self._prepared.of(modality).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            for collector in (self._items, self._bytes, self._read, self._prepared):
                yield from list(collector.collect())
