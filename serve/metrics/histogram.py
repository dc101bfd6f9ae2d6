"""Counters and histograms that take a microsecond to add to. Prometheus' own classes take a lock and walk
every bucket each time.

They are added to in the event loop's thread only, and read by scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
BYTES = (1e3, 1e4, 1e5, 1e6, 1e7)


class Series:
    """One histogram under one set of label values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Returns each bound with the count of all values up to it."""
        buckets, so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            buckets.append((floatToGoString(bound), float(so_far)))
        return buckets


class Histograms:
    """A histogram with labels: one series for each combination of label values."""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.about, self.labels, self.bounds = name, about, tuple(labels), bounds
        self.series: dict[tuple[str, ...], Series] = {}

    def of(self, *values: str) -> Series:
        """Returns the series under these label values."""
        series = self.series.get(values)
        if series is None:
            series = self.series[values] = Series(self.bounds)
        return series

    def same(self, series: Series, *values: str) -> None:
        """Reports another metric's series under these label values of this one too."""
        self.series[values] = series

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self.about, labels=self.labels)
        for values, series in list(self.series.items()):
            family.add_metric(values, series.buckets(), series.total)
        yield family


class Counters:
    """A counter with labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self.name, self.about, self.labels = name, about, tuple(labels)
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, amount: float, *values: str) -> None:
        self.values[values] = self.values.get(values, 0.0) + amount

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self.about, labels=self.labels)
        for values, value in list(self.values.items()):
            family.add_metric(values, value)
        yield family
