from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from poolrt.runtime import version as version_module
from poolrt.runtime.version import version

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    version.cache_clear()
    yield
    version.cache_clear()


def not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_an_installed_distribution_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"poolrt": "12.3"}.__getitem__)
    assert version() == "12.3"


def test_a_bare_checkout_has_the_version_of_its_project_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert version() == tomllib.loads(PROJECT.read_text())["project"]["version"]


def test_a_copy_without_project_file_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    monkeypatch.setattr(version_module, "_PROJECT", tmp_path / "pyproject.toml")
    assert version() == "unknown"
