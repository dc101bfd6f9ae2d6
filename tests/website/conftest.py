"""A folder like that of a reader who exported what the pages name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.runtime.commands import cli

from tests import families
from tests.conftest import exported

NAMES = {"ms-marco-MiniLM-L6-v2": "bert_cross_encoder", "colbert": "colbert", "sentiment": "bert_classifier",
         "entities": "bert_tokens"}  # fmt: skip
"""Folder below artifacts/ -> tiny checkpoint."""
FAMILIES = {"splade": "splade_bert", "clip": "clip"}


@pytest.fixture(scope="session")
def home(artifacts: Callable[[str], Path], minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `artifacts/` with what pages and notebooks name, a store with MiniLM, and two pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("reader")
    sources = {"all-MiniLM-L6-v2": minilm, **{name: artifacts(tiny) for name, tiny in NAMES.items()}}
    sources |= {name: exported(tiny, families.find(tiny)) for name, tiny in FAMILIES.items()}
    (folder / "artifacts").mkdir()
    for name, source in sources.items():
        (folder / "artifacts" / name).symlink_to(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLRT_HOME", str(folder / "store"))
        assert cli.main(["pull", str(folder / "artifacts" / "all-MiniLM-L6-v2")]) == 0
    for name, colour in (("page.png", "white"), ("photo.png", "red")):
        Image.new("RGB", (60, 40), colour).save(folder / name)
    return folder
