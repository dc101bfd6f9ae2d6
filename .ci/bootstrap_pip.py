"""Puts pip into a virtual environment that was made without it (`python3 -m venv --without-pip`).

A wheel is a zip that Python can import from, so pip installs itself. The index is PIP_INDEX_URL or pypi.org;
the file is checked against the sha256 that the index names.
"""

import hashlib
import html.parser
import os
import re
import runpy
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl")


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href") and "data-yanked" not in attributes:
            self.found.append(attributes["href"] or "")


def newest(page: str) -> str:
    """The link to the newest final release of pip on an index page (PEP 503)."""
    links = Links()
    links.feed(page)
    wheels = {
        tuple(map(int, match[1].split("."))): link for link in links.found if (match := WHEEL.search(link))
    }
    if not wheels:
        raise SystemExit(f"{INDEX}/pip/ lists no wheel of pip")
    return wheels[max(wheels)]


def main() -> None:
    page = f"{INDEX}/pip/"
    with urllib.request.urlopen(page, timeout=30) as answer:
        link = urllib.parse.urljoin(page, newest(answer.read().decode()))
    url, _, digest = link.partition("#sha256=")
    with urllib.request.urlopen(url, timeout=60) as answer:
        wheel = answer.read()
    if not digest or hashlib.sha256(wheel).hexdigest() != digest:
        raise SystemExit(f"{url}: sha256 differs from the index's")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(urllib.parse.urlsplit(url).path).name
        path.write_bytes(wheel)
        sys.path.insert(0, str(path))
        sys.argv = ["pip", "install", "--no-index", "--find-links", folder, "pip"]
        runpy.run_module("pip", run_name="__main__")


if __name__ == "__main__":
    main()
