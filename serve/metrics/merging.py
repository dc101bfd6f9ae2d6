"""The metrics of several processes as those of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]

SMALLEST = ("_created", "start_time_seconds")
LARGEST = ("_info", "_max_fds")
MEAN = ("poolrt_padding_ratio", "vllm:kv_cache_usage_perc")
"""Endings of samples that are no sums: the earliest time, a fact that all share, a ratio."""
COUNTED = ("counter", "histogram", "summary")
"""Types that never decrease."""


@dataclass(slots=True)
class Total:
    """Metrics of processes that have ended. What was reported of them stays in the sums, since a counter that
    decreases looks like a restart of the whole server, and would be counted again."""

    families: dict[str, Metric] = field(default_factory=dict)

    def add(self, text: bytes) -> None:
        kept = [family for family in parsed(text) if family.type in COUNTED]
        self.families = {family.name: family for family in merged([self.families.values(), kept])}


def parsed(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def summed(texts: Iterable[bytes], total: Total | None = None, extra: Iterable[Metric] = ()) -> bytes:
    """One text of several: counters and histograms are sums, as are gauges, ratios and times aside.

    Args:
        total: of processes that have ended.
        extra: families of the server itself.
    """
    sources: list[Iterable[Metric]] = [parsed(text) for text in texts]
    if total is not None:
        sources.append(total.families.values())
    registry = CollectorRegistry()
    registry.register(_Fixed([*merged(sources), *extra]))
    return generate_latest(registry)


class _Fixed:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merged(sources: Iterable[Iterable[Metric]]) -> list[Metric]:
    families: dict[str, Metric] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    for source in sources:
        for family in source:
            families.setdefault(family.name, family)
            samples = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                samples.setdefault(key, []).append(sample.value)
    results: list[Metric] = []
    for name, family in families.items():
        result = Metric(name, family.documentation, family.type)
        for (sample, labels), numbers in values[name].items():
            result.add_sample(sample, dict(labels), _one(sample, numbers))
        results.append(result)
    return results


def _one(name: str, numbers: list[float]) -> float:
    if name.endswith(SMALLEST):
        return min(numbers)
    if name.endswith(LARGEST):
        return max(numbers)
    return sum(numbers) / len(numbers) if name in MEAN else sum(numbers)
