"""artifacts/README.md is the format's specification: it must name what the code declares."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from poolrt.runtime.artifact import images, manifest

PAGE = (Path(__file__).parents[1] / "artifacts" / "README.md").read_text(encoding="utf-8")
RECORDS = list(
    {
        value.__name__: value
        for module in (manifest, images)
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    }.values()
)
CHOICES = [
    manifest.Task,
    manifest.Scoring,
    manifest.Precision,
    manifest.Pool,
    manifest.Activation,
    manifest.Backend,
    manifest.GraphRole,
    images.Scheme,
    images.Kernel,
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_stands_on_the_format_page(record):
    assert not [field.name for field in dataclasses.fields(record) if f"`{field.name}`" not in PAGE]


@pytest.mark.parametrize(
    "choice",
    CHOICES,
    ids=["task", "scoring", "precision", "pool", "activation", "backend", "role", "scheme", "kernel"],
)
def test_every_choice_stands_on_the_format_page(choice):
    assert not [name for name in typing.get_args(choice) if f"`{name}`" not in PAGE]


def test_the_format_page_is_about_the_current_format():
    assert PAGE.startswith(f"# The artifact format, version {manifest.FORMAT}\n")
