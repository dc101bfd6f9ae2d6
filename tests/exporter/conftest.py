"""Tiny checkpoints of the exporter's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tests.checkpoints as tiny
from tests import families
from tests.exporter.graphs import Exported


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """`written("bert_plain")`: that checkpoint in a folder of its own, which the test may change."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return (tiny.ALL.get(name) or families.find(name))(folder)

    return write


@pytest.fixture(scope="session", params=["distilbert_embedder", "modernbert_masked", "qwen3_embedding"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bidirectional encoder; rotary positions with a window; a decoder."""
    return Exported(tmp_path_factory.mktemp("exported"), request.param)
