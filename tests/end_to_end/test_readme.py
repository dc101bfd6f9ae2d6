"""The README's tour, run as it stands there: only the artifact's folder and the
server's address are replaced."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT, environment, post, run, served

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARTIFACT = "artifacts/all-MiniLM-L6-v2"
COMMANDS = re.findall(rf"^poolrt (?:inspect|verify|embed|rerank|score) {ARTIFACT}.*$", README, re.MULTILINE)
# What needs a picture and a model that reads it is run by tests/serve and tests/runtime.
PICTURES = re.compile("base64,|from PIL")
REQUESTS = [
    request
    for request in re.findall(
        r"^curl http://127\.0\.0\.1:8000(\S+).*?-d '(.*?)'$", README, re.MULTILINE | re.DOTALL
    )
    if not PICTURES.search(request[1])
]
SNIPPETS = [
    code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if not PICTURES.search(code)
]


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[1])
def test_commands_work(line: str, minilm: Path):
    arguments = shlex.split(line.replace(ARTIFACT, str(minilm)), comments=True)[1:]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_requests_work(minilm: Path):
    assert REQUESTS
    with served(minilm) as url:
        answers = {route: post(url + route, json.loads(body)) for route, body in REQUESTS}
    assert len(answers["/v1/embeddings"]["data"]) == 2
    assert answers["/rerank"]["results"][0]["document"]["text"] == "yeast makes gas"


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_works(snippet: str, minilm: Path):
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import conftest\n"
    code = start + snippet.replace(ARTIFACT, str(minilm))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "yeast makes gas" in done.stdout


def test_the_tour_is_found():
    assert len(COMMANDS) >= 4
    assert len(REQUESTS) >= 2
    assert len(SNIPPETS) == 1
