"""How pages that were written for GitHub become pages of the site."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.website import links

ROOT = Path(__file__).parents[2]
URL = "https://example.org/poolrt"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def rewritten(markdown: str, page: str = "howto/dense.md") -> str:
    pages = {
        "docs/http.md": "http.md",
        "bench/RESULTS.md": "bench/RESULTS.md",
        "README.md#ten": "tutorial.md",
    }
    return links.rewritten(markdown, page, f"docs/{page}", root=ROOT, url=URL, pages=pages)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("../http.md#4-part", "../http.md#4-part"),
        ("../../bench/RESULTS.md", "../bench/RESULTS.md"),
        ("../../README.md#ten", "../tutorial.md"),
        ("../../README.md#more", f"{URL}/blob/main/README.md#more"),
        ("../../serve/app.py", f"{URL}/blob/main/serve/app.py"),
        ("../../serve", f"{URL}/tree/main/serve"),
        (f"{URL}/blob/main/docs/http.md", "../http.md"),
        ("https://elsewhere.org/a.md", "https://elsewhere.org/a.md"),
        ("#part", "#part"),
        ("lost.md", "lost.md"),  # mkdocs reports it
    ],
)
def test_a_link_leads_to_a_page_of_the_site_or_into_the_repository(link: str, expected: str):
    assert rewritten(f"see [it]({link})") == f"see [it]({expected})"


def test_code_stays_as_it_is():
    code = "```\n[x](../../serve)\n- a\n  - b\n```\n"
    assert rewritten(code) == code


def test_lists_are_those_of_python_markdown():
    assert links.lists("a sentence:\n- one\n  - inner\n- two") == "a sentence:\n\n- one\n    - inner\n- two"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_has_a_title(notebook: Path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert re.match("# .", "".join(cells[0]["source"]))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert any("assert " in "".join(cell["source"]) for cell in cells)
