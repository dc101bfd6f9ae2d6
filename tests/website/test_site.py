"""The site as `make docs` builds it: without a warning, and without anything from another server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock

from tests.serve import chromium

ROOT = Path(__file__).parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
           "embed": "src", "object": "data", "input": "src"}  # fmt: skip
"""Elements that make a browser fetch something -> the attribute that names it; `link` by its rel."""
NAMED = ("canonical", "prev", "next", "alternate")
"""Relations that fetch nothing."""


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in FETCHED and (place := values.get(FETCHED[tag])):
            self.fetched.append(place)
        if tag == "link" and (values.get("rel") or "") not in NAMED and (place := values.get("href")):
            self.fetched.append(place)
        if tag == "a" and (place := values.get("href")):
            self.links.append(place)
        if name := values.get("id") or values.get("name"):
            self.anchors.add(name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once for all processes of a run: they would share build/docs, where the hooks write."""
    run = tmp_path_factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    folder, done = run / "site", run / "site.done"
    with FileLock(run / "site.lock"):
        if not done.exists():
            built = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
                cwd=ROOT, capture_output=True, text=True, check=False,
                env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            )  # fmt: skip
            assert built.returncode == 0, built.stderr
            assert "WARNING" not in built.stderr
            done.touch()
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    read: dict[Path, Page] = {}
    for path in site.rglob("*.html"):
        read[path] = Page()
        read[path].feed(path.read_text(encoding="utf-8"))
    assert len(read) > 80
    return read


def test_no_page_fetches_anything_from_another_server(pages: dict[Path, Page]):
    foreign = {place for page in pages.values() for place in page.fetched if re.match(r"(https?:)?//", place)}
    assert not foreign


def test_no_script_asks_another_server(site: Path, tmp_path: Path):
    program = chromium.executable()
    if program is None:
        pytest.skip("no Chromium on this machine: install chromium, or name one in POOLRT_CHROMIUM")
    with chromium.Page(program, tmp_path) as browser:
        for page in ("index.html", "reference/http.html"):
            browser.open((site / page).as_uri())
            # The theme's script has run when the page can be searched.
            browser.until("document.querySelector('html.js .md-search__input') !== null")
            fetched = browser.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
            assert [place for place in fetched if not place.startswith("file:")] == []
        assert browser.console == []


def test_every_dialog_has_a_name(site: Path):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'role="dialog"[^>]*', start) == ['role="dialog" aria-label="Search"']


def test_no_style_fetches_anything_from_another_server(site: Path):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )


def test_every_link_inside_the_site_leads_to_a_page_and_a_part_of_it(pages: dict[Path, Page]):
    lost = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the server's root
            continue
        for link in page.links:
            place, _, anchor = link.partition("#")
            if re.match(r"\w+:", place):
                continue
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.exists() or (anchor and known is not None and anchor not in known.anchors):
                lost.append(f"{path.name}: {link}")
    assert not lost


@pytest.mark.parametrize(
    ("page", "holds"),
    [
        ("reference/http.html", "POST /v1/embeddings"),
        ("reference/python.html", "token_embed"),
        ("reference/commands.html", "--max-num-batched-tokens"),
        ("tutorial.html", "poolrt rerank artifacts/all-MiniLM-L6-v2"),
        ("architecture.html", "<svg class=\"structure\""),
        ("bench/RESULTS.html", "RESULTS.svg"),
        ("notebooks/rerank.html", "rerank.ipynb"),
    ],
)  # fmt: skip
def test_a_page_that_is_made_of_something_else_holds_it(site: Path, page: str, holds: str):
    assert holds in (site / page).read_text(encoding="utf-8")
