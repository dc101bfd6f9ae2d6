"""`poolrt export --report`: one file of HTML, without a script and without anything from elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...runtime import machine
from ...runtime.artifact import reading as artifacts
from ...runtime.artifact.manifest import Evidence, Manifest
from ...runtime.errors import InputError
from ...runtime.version import version
from ..base.report import Report, Say, reading, silent, size
from . import charts, operators

MOST_KINDS = 15
"""Kinds of operators that are drawn; the rest is one bar."""
_MOST_FILES = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """The evidence of one engine and task."""

    engine: str
    task: str
    rows: tuple[Evidence, ...]
    is_cosine: bool
    plot: Markup
    ranks: Markup | None
    """None: no shape class has documents to be ranked."""


def check(file: str) -> None:
    """Raises InputError, before any work, for a place that no file can have."""
    if Path(file).is_dir():
        raise InputError(f"--report {file}: a folder; name a file in it", field="report")


def written(report: Report, file: str, *, progress: Say = silent) -> Report:
    """Measures the operators, writes the page, and returns the report with its place.

    Args:
        file: where to; empty: beside the artifact, as NAME.report.html.

    Raises InputError where the file cannot be written; the artifact stays.
    """
    folder = Path(report.path)
    target = Path(file) if file else folder.with_name(f"{folder.name}.report.html")
    progress("measuring the operators, for the report ...")
    text = html(report, artifacts.read(folder, check="quick").manifest)
    draft = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)
    except OSError as error:
        raise InputError(
            f"{target}: {error.strerror or error}; no report was written; the artifact is whole: {folder}",
            field="report",
        ) from error
    return dataclasses.replace(report, page=str(target))


def html(report: Report, manifest: Manifest) -> str:
    """The page."""
    folder, graph = Path(report.path), manifest.graph("text")
    why = operators.left_out(folder, graph)
    times = operators.measured(folder, manifest, graph) if why is None else None
    total = 0.0 if times is None else sum(times.kinds.values())
    template = resources.files(__package__ or "").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["bytes"] = size
    return environment.from_string(template).render(
        report=report,
        manifest=manifest,
        reading=None if report.reading is None else reading(report.reading),
        comparisons=list(_comparisons(report.evidence)),
        times=times,
        total=total,
        why_no_times=why,
        layer_plot=None if times is None else _layers(times),
        operator_plot=None if times is None else _operators(times),
        size_plot=_sizes(report.sizes),
        step_plot=_steps(report.seconds),
        environment=_environment(manifest),
        drift=_of_cosine,
    )


def _comparisons(evidence: Sequence[Evidence]) -> Iterator[Comparison]:
    def key(row: Evidence) -> tuple[str, str]:
        return row.engine, row.task

    for (engine, task), grouped in itertools.groupby(sorted(evidence, key=key), key):
        rows = tuple(grouped)
        is_cosine = rows[0].worst_cosine is not None
        allowed = 1 - rows[0].tolerance if is_cosine else rows[0].tolerance
        what = "1 - cosine" if is_cosine else "difference"
        title = f"{engine}, {task}: {what} to PyTorch for each shape class; the table below has the numbers"
        points = [charts.Drift(row.shape, *_drift(row)) for row in rows]
        ranked = [row for row in rows if row.rank_agreement is not None]
        agreement = [
            charts.Bar(row.shape, row.rank_agreement or 0.0, f"{row.rank_agreement or 0.0:.1%}")
            for row in ranked
        ]
        ranks = charts.bars(f"{engine}, {task}: share of neighbours in PyTorch's order", agreement, most=1)
        plot = charts.drifts(title, points, allowed)
        yield Comparison(engine, task, rows, is_cosine, plot, ranks if ranked else None)


def _drift(row: Evidence) -> tuple[float, float | None]:
    """Worst and mean."""
    if row.worst_cosine is None:
        return row.worst_difference or 0.0, row.mean_difference
    return max(0.0, 1 - row.worst_cosine), None if row.mean_cosine is None else max(0.0, 1 - row.mean_cosine)


def _layers(times: operators.OperatorTimes) -> Markup:
    total = sum(times.layers.values())
    rows = [
        charts.Bar(layer, seconds, f"{seconds * 1e3:.2f} ms, {seconds / total:.0%}")
        for layer, seconds in times.layers.items()
    ]
    return charts.bars("Time of each layer for one batch; the table below has the numbers", rows)


def _operators(times: operators.OperatorTimes) -> Markup:
    total = sum(times.kinds.values())
    kinds = list(times.kinds.items())
    rest = kinds[MOST_KINDS:]
    if rest:
        kinds = [*kinds[:MOST_KINDS], (f"{len(rest)} other kinds", sum(seconds for _, seconds in rest))]
    rows = [
        charts.Bar(kind, seconds, f"{seconds * 1e3:.2f} ms, {seconds / total:.0%}") for kind, seconds in kinds
    ]
    return charts.bars("Time of each kind of operator for one batch; the table below has the numbers", rows)


def _sizes(sizes: dict[str, int]) -> Markup:
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_MOST_FILES]
    return charts.bars(
        "Size of the largest files", [charts.Bar(name, count, size(count)) for name, count in largest]
    )


def _steps(seconds: dict[str, float]) -> Markup:
    return charts.bars(
        "Seconds of each step of the export",
        [charts.Bar(step, spent, f"{spent:.1f} s") for step, spent in seconds.items()],
    )


def _environment(manifest: Manifest) -> dict[str, str]:
    return {
        "poolrt": version(),
        **manifest.versions,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{machine.processor()[0]}, {machine.cpus()} cores for this process",
        "exported": manifest.created or "unknown",
        **{f"sha256 of {file}": digest for file, digest in manifest.source.weights.items()},
    }


def _of_cosine(cosine: float) -> str:
    """1 - cosine, which tells what digits of a cosine near 1 do not; a rounding above 1 is none."""
    return f"{max(0.0, 1 - cosine):.1e}"
