"""The steps of an export while it runs, and at the end one record, printed as a table or as JSON."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...runtime.artifact.manifest import Evidence, Manifest, Reading
from ...runtime.commands import inspection
from .refusals import in_one_sentence

Say = Callable[[str], None]


def silent(line: str) -> None:
    """A `Say` that says nothing."""


class ExportSteps:
    """A numbered plan that is announced, carried out in order and timed."""

    def __init__(self, titles: Sequence[str], say: Say, *, about: str | None = None) -> None:
        """`about`: a checkpoint's name. What a library raises in a step becomes one sentence about it."""
        self.titles, self.say, self.about = tuple(titles), say, about
        self.seconds: dict[str, float] = {}
        width = len(str(len(self.titles)))
        say("plan:")
        for number, title in enumerate(self.titles, 1):
            say(f"  {number:{width}}. {title}")

    def insert(self, title: str, *, after: str) -> None:
        """Adds a step that turned out to be necessary. Steps already timed keep their seconds."""
        place = self.titles.index(after) + 1
        self.titles = (*self.titles[:place], title, *self.titles[place:])

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        number = self.titles.index(title) + 1
        self.say(f"[{number}/{len(self.titles)}] {title} ...")
        started = time.perf_counter()
        with (
            contextlib.nullcontext()
            if self.about is None
            else in_one_sentence(f"{self.about}: could not {title}")
        ):
            yield
        self.seconds[title] = spent = time.perf_counter() - started
        self.say(f"[{number}/{len(self.titles)}] {title}: {spent:.1f} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of `export`, `build` or `verify`."""

    name: str
    path: str
    architecture: str
    tasks: tuple[str, ...]
    scoring: str | None
    guesses: tuple[str, ...] = ()
    """What was decided from the checkpoint's files and how to change it, one line each."""
    precision: str
    engines: tuple[str, ...]
    sizes: dict[str, int]
    """File -> bytes."""
    evidence: tuple[Evidence, ...]
    reading: Reading | None = None
    """The comparison of our PyTorch module with the checkpoint's own library; None: there was none."""
    notes: tuple[str, ...] = ()
    page: str | None = None
    """The file of `--report`; None: there is none."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Step -> seconds."""
    next: tuple[str, ...] = ()
    """Commands to type now."""


def of_artifact(manifest: Manifest, path: str, **more: object) -> Report:
    """The report of an artifact. `more` fills the fields that its manifest does not know."""
    return Report(
        name=manifest.name,
        path=path,
        architecture=manifest.architecture,
        tasks=manifest.tasks,
        scoring=manifest.scoring,
        precision=manifest.graph("text").stored,
        engines=tuple(engine.file for engine in manifest.engines),
        sizes={name: file.size for name, file in manifest.files.items()},
        **more,  # pyright: ignore[reportArgumentType]
    )


def table(report: Report) -> str:
    """The report as text of several lines."""
    lines = [
        f"{report.name}: {report.architecture}, {report.precision}, tasks {', '.join(report.tasks)}"
        + (f" ({report.scoring})" if report.scoring else ""),
        f"  {report.path}   {size(sum(report.sizes.values()))} in {len(report.sizes)} files",
    ]
    largest = sorted(report.sizes.items(), key=lambda item: -item[1])[:5]
    lines += [f"    {name:<44} {size(count):>9}" for name, count in largest]
    if report.evidence:
        lines += ["", "  against PyTorch (eager fp32, without padding):", *_evidence(report.evidence)]
    if report.reading is not None:
        lines += ["", f"  PyTorch against the checkpoint's own library: {reading(report.reading)}"]
    if report.notes:
        lines += ["", *(f"  note: {note}" for note in report.notes)]
    if report.seconds:
        lines += [
            "",
            "  " + ", ".join(f"{title} {seconds:.1f} s" for title, seconds in report.seconds.items()),
        ]
    if report.page is not None:
        lines += ["", f"  report with plots: {report.page}"]
    if report.next:
        lines += ["", "  next:", *(f"    {command}" for command in report.next)]
    return "\n".join(lines)


def reading(record: Reading) -> str:
    """The record as one line."""
    return inspection.reading(record)


def size(count: int) -> str:
    """A count of bytes with its unit."""
    return next(
        f"{count / unit:.1f} {name}"
        for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
        if count >= unit or unit == 1
    )


def _evidence(evidence: Sequence[Evidence]) -> list[str]:
    rows = [
        (
            "engine",
            "task",
            "shape class",
            "texts",
            "worst cosine",
            "worst difference",
            "same order",
            "allowed",
        )
    ]
    for measured in evidence:
        rows.append(
            (
                measured.engine,
                measured.task,
                measured.shape,
                str(measured.texts),
                "" if measured.worst_cosine is None else f"{measured.worst_cosine:.7f}",
                "" if measured.worst_difference is None else f"{measured.worst_difference:.1e}",
                "" if measured.rank_agreement is None else f"{measured.rank_agreement:.0%}",
                f"{'>=' if measured.worst_cosine is not None else '<='} {measured.tolerance:g}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
