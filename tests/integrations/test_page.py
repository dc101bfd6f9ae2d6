"""Every snippet of docs/integrations.md runs as it stands there, in a process of its own, and gives the
numbers of sentence-transformers."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.commands import environment
from tests.integrations.conftest import SAME

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
LIBRARY = re.compile(r"^from poolrt\.runtime\.integrations\.(\w+) import", re.MULTILINE)
PACKAGES = {
    "langchain": "langchain-core", "llama_index": "llama-index-core", "haystack": "haystack-ai",
    "chroma": "chromadb", "qdrant": "qdrant-client",
}  # fmt: skip
DOCUMENTS = ["a lion is a cat", "rain tomorrow"]
SHOWN = ("vectors", "scores", "late", "nearest")

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, minilm: Path, artifacts: Callable[[str], Path]) -> Path:
    """Where the page's artifacts are: the real MiniLM, and tiny ones of the other kinds."""
    (tmp_path / "artifacts").mkdir()
    for name, artifact in (
        ("all-MiniLM-L6-v2", minilm),
        ("ms-marco-MiniLM-L6-v2", artifacts("bert_cross_encoder")),
        ("bge-m3", artifacts("bge_m3")),
    ):
        (tmp_path / "artifacts" / name).symlink_to(artifact)
    return tmp_path


def run(text: str, folder: Path) -> dict[str, Any]:
    """The values that the page shows, after a snippet ran in the folder."""
    epilogue = (
        "\nimport json, numpy\n"
        f"shown = {{name: globals()[name] for name in {SHOWN!r} if name in globals()}}\n"
        "print(json.dumps(shown, default=lambda value: numpy.asarray(value).tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text + epilogue], cwd=folder, env=environment(), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("text", SNIPPETS, ids=[LIBRARY.findall(text)[0] for text in SNIPPETS])
def test_every_snippet_works(
    text: str, folder: Path, minilm_checkpoint: Path, checkpoints: Callable[[str], Path]
) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    package = PACKAGES[LIBRARY.findall(text)[0]]
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: make clients")
    shown = run(text, folder)
    assert shown
    if "vectors" in shown:
        expected = SentenceTransformer(str(minilm_checkpoint), device="cpu").encode(["a cat", "a dog"])
        np.testing.assert_allclose(shown["vectors"], expected, atol=SAME)
    if "scores" in shown:
        model = CrossEncoder(str(checkpoints("bert_cross_encoder")), device="cpu")
        scores = np.asarray(model.predict([("big cats", document) for document in DOCUMENTS]))
        order = np.argsort(-scores, kind="stable").tolist()
        assert [document for document, _ in shown["scores"]] == [DOCUMENTS[place] for place in order]
        np.testing.assert_allclose([score for _, score in shown["scores"]], scores[order], atol=SAME)
    if "late" in shown:
        assert {document for document, _ in shown["late"]} == set(DOCUMENTS)
    if "nearest" in shown:
        assert shown["nearest"] == [["a lion is a cat"]]


def test_every_module_has_a_snippet_and_a_version_that_was_tried() -> None:
    """Of triton, which Triton imports, docs/triton.md speaks."""
    modules = {path.stem for path in (PAGE.parents[1] / "runtime" / "integrations").glob("*.py")}
    assert {LIBRARY.findall(text)[0] for text in SNIPPETS} == modules - {"__init__", "opening", "triton"}
    rows = re.findall(
        r"`poolrt\.runtime\.integrations\.(\w+)` \| (\S+) ([\d.]+) \|", PAGE.read_text(encoding="utf-8")
    )
    assert {module: package for module, package, _ in rows} == PACKAGES
