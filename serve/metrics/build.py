"""What runs: the versions of poolrt, Python and the engine libraries, and the engine of each model.

Metrics of constant value 1, whose labels a dashboard joins with the other metrics.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from ...runtime import machine
from ...runtime.engines.table import TABLE, Choice
from ...runtime.version import version
from ..models.registry import Registry


class Build:
    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._labels = {
            "version": version(),
            "python": platform.python_version(),
            "system": platform.system().lower(),
            "machine": platform.machine().lower(),
            "engine": ", ".join(engine_libraries()),
        }

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "poolrt_build_info", "The version of poolrt and of what it runs on.", labels=tuple(self._labels)
        )
        build.add_metric(tuple(self._labels.values()), 1.0)
        yield build
        models = GaugeMetricFamily(
            "poolrt_model_info",
            "A model's engine, and what it computes in.",
            labels=("model_name", "engine", "backend", "device", "precision", "file"),
        )
        if self.registry.ready.is_set():
            for served in self.registry:
                choice = served.model.engine
                models.add_metric((served.name, "0", *computed_by(choice)), 1.0)
        yield models


def engine_libraries() -> list[str]:
    """Returns each engine library that is installed, with its version."""
    return [
        f"{backend} {installed}"
        for backend, (_, distributions, _) in TABLE.items()
        if (installed := machine.version(*distributions)) is not None
    ]


def computed_by(choice: Choice) -> tuple[str, str, str, str]:
    """Returns backend, device, precision and file of what computes a model."""
    engine = choice.engine
    precision = choice.precision or (engine.precision if engine else choice.graph.precision)
    device = engine.device if engine is not None else choice.device
    return choice.backend, device, precision, engine.file if engine is not None else choice.graph.file
