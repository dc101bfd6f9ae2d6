"""Tiny checkpoints of the exporter's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tests.checkpoints as tiny
from tests import families


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """`written("bert_plain")`: that checkpoint in a folder of its own, which the test may change."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return (tiny.ALL.get(name) or families.find(name))(folder)

    return write
