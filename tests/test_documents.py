"""What the documents point to exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
SOURCE_URL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
OWN_LINK = re.compile(rf"\]\({re.escape(SOURCE_URL)}/(blob|tree)/main/([^)#]+)")
"""Of pages that are read elsewhere too, as README.md is on the package index."""
MENTION = re.compile(r"(?<![\w./*{-])((?:[\w-]+/)*[\w-]+\.md)\b(?: (\d+(?:\.\d+)*))?")
SOURCE = re.compile(r"(?<![\w.*<{/-])((?:[\w.-]+/)*\w[\w-]*\.py)\b")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    assert not [
        link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()
    ]


def test_absolute_links_to_ourselves_lead_to_files_and_folders() -> None:
    links = [link for page in PAGES for link in OWN_LINK.findall(page.read_text(encoding="utf-8"))]
    assert links
    lost = [
        path
        for kind, path in links
        if not ((ROOT / path).is_file() if kind == "blob" else (ROOT / path).is_dir())
    ]
    assert not lost


def test_every_link_of_the_readme_works_where_it_is_shown_elsewhere() -> None:
    """The package index shows README.md, and has no folder around it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert LINK.findall(text) == [], f"give them as {SOURCE_URL}/blob/main/..."
    assert len(OWN_LINK.findall(text)) > 20


def test_every_decision_is_in_the_index_once() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")


def mentions() -> list[tuple[Path, int, str, str]]:
    """File, line, page and section (`7.1`, or nothing) of every page that code, a recipe
    or a page of HTML names."""
    places = []
    for area in ("bench", "docs", "examples", "exporter", "package", "recipes", "runtime", "serve", "tests"):
        for path in sorted(
            file for file in (ROOT / area).rglob("*") if file.suffix in (".py", ".toml", ".jinja", ".html")
        ):
            if "website" in path.parts:  # there pages are named by their place on the site
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                named = MENTION.findall(line)
                # Tests also write pages, into folders of their own.
                places += [
                    (path, number, page, section) for page, section in named if area != "tests" or "/" in page
                ]
    return places


def test_code_points_to_pages_and_sections_that_exist() -> None:
    """A page is named as it stands from the repository's root, or beside the file that names it."""
    known, lost = mentions(), []
    assert sum(page == "docs/http.md" for _, _, page, _ in known) > 10, (
        "the pages that docstrings name are found"
    )
    for path, number, page, section in known:
        home = next((folder / page for folder in (ROOT, path.parent) if (folder / page).is_file()), None)
        if home is None:
            lost.append(f"{path.relative_to(ROOT)}:{number}: {page}")
        elif section and not re.search(
            rf"^##+ {re.escape(section)}\.? ", home.read_text(encoding="utf-8"), re.MULTILINE
        ):
            lost.append(f"{path.relative_to(ROOT)}:{number}: {page} has no section {section}")
    assert not lost


@pytest.mark.parametrize("area", ["exporter", "package", "runtime", "serve", "pages"])
def test_named_source_files_exist(area: str) -> None:
    """A file is named from the folder of the file that names it, or from one around that."""
    paths = (
        [page for page in PAGES if page.name != "map.md"]
        if area == "pages"
        else sorted((ROOT / area).rglob("*.py"))
    )
    lost = [
        f"{path.relative_to(ROOT)}:{number}: {name}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for name in SOURCE.findall(line)
        if not any((folder / name).is_file() for folder in path.parents)
    ]
    assert not lost


def test_a_source_file_is_found_where_a_sentence_names_it() -> None:
    assert SOURCE.findall("see `a/b.py`, c_d.py: not x.pyc, *.py or {name}.py") == ["a/b.py", "c_d.py"]


@pytest.mark.parametrize(
    ("file", "name"),
    TEST.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8")),
    ids=lambda part: part.split("/")[-1],
)
def test_security_names_tests_that_exist(file, name):
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page):
    named = set(
        re.findall(r"(?:`|^)make ([a-z][a-z-]*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named
    for target in named:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
