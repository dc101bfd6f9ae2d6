"""The commands, Python and requests of the how-to and migration pages, run as they stand there."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.commands import cli

from tests.end_to_end.commands import post, served

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs" / "howto").glob("*.md"), *(ROOT / "docs" / "migrate").glob("*.md")])
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^(poolrt (?:embed|score|rerank|classify|list|prune|pull artifacts/).*)$", re.MULTILINE)
REQUEST = re.compile(
    r"^curl http://127\.0\.0\.1:8000(\S+) [^@{]*?-d (?:'|@- <<BODY\n)(\{.*?\})(?:'$|\nBODY$)",
    re.MULTILINE | re.DOTALL,
)
SERVED = {"dense": "all-MiniLM-L6-v2", "sparse": "splade", "colbert": "colbert",
          "rerank": "ms-marco-MiniLM-L6-v2", "classify": "sentiment", "pictures": "clip"}  # fmt: skip
"""Page -> artifact that its requests are sent to."""

TEI = ("/embed_sparse", "/predict")
"""Routes whose bodies name no model."""


def all_of(pattern: re.Pattern[str]) -> list[object]:
    """What the pattern finds on the pages, a parameter each."""
    return [
        pytest.param(match[1], id=f"{page.stem}-{number}")
        for page in PAGES
        for number, match in enumerate(pattern.finditer(page.read_text(encoding="utf-8")))
    ]


@pytest.fixture
def reader(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setenv("POOLRT_HOME", str(home / "store"))
    return home


@pytest.mark.parametrize("code", all_of(SNIPPET))
def test_python_of_a_page_works(code: str, reader: Path):
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "page", "exec"), {})


@pytest.mark.parametrize("line", all_of(COMMAND))
def test_a_command_of_a_page_works(line: str, reader: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0
    assert capsys.readouterr().out


def test_requests_of_the_pages_work(home: Path):
    pages = {page: (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8") for page in SERVED}
    requests = {page: REQUEST.findall(text) for page, text in pages.items()}
    assert all(requests.values())
    picture = base64.b64encode((home / "page.png").read_bytes()).decode()
    with served(*(home / "artifacts" / name for name in SERVED.values())) as url:
        for page, sent in requests.items():
            name = read(home / "artifacts" / SERVED[page], check="quick").manifest.name
            for route, body in sent:
                model = {} if route in TEI else {"model": name}
                body = body.replace("$PICTURE", f"data:image/png;base64,{picture}")
                assert post(url + route, {**json.loads(body), **model}), (page, route)


def test_every_task_has_a_page_with_python():
    with_python = {page.stem for page in PAGES if SNIPPET.search(page.read_text(encoding="utf-8"))}
    assert {"dense", "sparse", "colbert", "rerank", "classify", "pictures"} <= with_python
