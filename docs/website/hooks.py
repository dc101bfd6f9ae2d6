"""mkdocs' hooks: pages that are made of other files, and links that lead to the repository.

Nothing is written twice: the tutorial is README.md's tour, the references are made of docstrings, of the
route table and of the flags, and pages beside docs/ are read where they lie.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import conftest  # noqa: E402, F401  (makes `poolrt` importable from a checkout)
from docs.website import (  # noqa: E402
    command_reference,
    http_reference,
    links,
    notebooks,
    python_reference,
    structure,
)

BESIDE = (
    "examples/README.md", "examples/deploy/README.md", "artifacts/README.md", "bench/RESULTS.md",
    "bench/RESULTS-GPU.md", "bench/PICTURES.md", "bench/RESULTS.svg", "CONTRIBUTING.md", "SECURITY.md",
    "CHANGELOG.md",
)  # fmt: skip
"""Files outside docs/ that have the same place on the site."""
OUTWARD = ' data-md-component="source"'
"""Material's mark on the link to the repository: its script then asks GitHub for stars and releases."""
UNNAMED = 'data-md-component="search" role="dialog"'
"""The search, which Material leaves without a name for screen readers."""
TOUR = re.compile(r"^## Ten minutes\n(.*?)(?=^## Pictures$)", re.MULTILINE | re.DOTALL)


def tutorial() -> str:
    """README.md's tour as a page, with its commands as titles."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = TOUR.search(readme)
    assert tour is not None, "README.md has no tour between `## Ten minutes` and `## Pictures`"
    start = "```\ngit clone https://github.com/poolrt/poolrt && cd poolrt\nmake demo\n```\n\n"
    return f"# Ten minutes\n\n{start}{tour[1]}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    python_reference.linked(ROOT)
    pages = {
        "tutorial.md": tutorial(),
        "architecture.md": structure.page(ROOT),
        "reference/python.md": python_reference.public(),
        "reference/integrations.md": python_reference.integrations(ROOT),
        "reference/ray.md": python_reference.ray(),
        "reference/http.md": http_reference.page(),
        "reference/commands.md": command_reference.page(),
        **notebooks.pages(ROOT / "docs" / "notebooks"),
        **{name: (ROOT / name).read_text(encoding="utf-8") for name in BESIDE},
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content, inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links of the site."""
    own = page.file.src_uri
    if own == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    source = "README.md" if own == "tutorial.md" else own if own in BESIDE else f"docs/{own}"
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    pages |= {name: name for name in BESIDE} | {"README.md#ten-minutes": "tutorial.md"}
    return links.rewritten(markdown, own, source, root=ROOT, url=config.repo_url or "", pages=pages)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """The page without requests to other servers, and with a name for every dialog."""
    return output.replace(OUTWARD, "").replace(UNNAMED, f'{UNNAMED} aria-label="Search"')
