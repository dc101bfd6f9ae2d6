"""Makes a page that was written for GitHub one of the site: its links, and its lists for Python-Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
ITEM = re.compile(r"^( *)([-*]|\d+\.) ")


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """The page with `change` applied to everything that is no block of code."""
    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def lists(text: str) -> str:
    """The text with four spaces before items of inner lists, and an empty line between a paragraph and a
    list."""
    lines: list[str] = []
    for line in text.split("\n"):
        if item := ITEM.match(line):
            before = lines[-1] if lines else ""
            if (
                before.strip()
                and not item[1]
                and not ITEM.match(before)
                and not before.startswith((" ", "#"))
            ):
                lines.append("")
            line = item[1] + line
        lines.append(line)
    return "\n".join(lines)


def rewritten(
    markdown: str, page: str, source: str, *, root: Path, url: str, pages: Mapping[str, str]
) -> str:
    """The page with links that work on the site.

    Args:
        page: its place on the site, such as `howto/dense.md`.
        source: the file it was made of, from the repository's root.
        url: address of the repository, for files that have no page.
        pages: file from the repository's root, or `file#part` -> its place on the site.
    """

    def target(link: str) -> str:
        path, hash_sign, anchor = link.partition("#")
        for kind in ("blob", "tree"):
            if path.startswith(own := f"{url}/{kind}/main/"):
                path = "/" + path.removeprefix(own)
        if not path or "://" in path or path.startswith("mailto:"):
            return link
        beside = path[1:] if path.startswith("/") else os.path.join(os.path.dirname(source), path)
        file = os.path.normpath(beside)
        if (part := f"{file}#{anchor}") in pages:
            return os.path.relpath(pages[part], os.path.dirname(page) or ".")
        if file in pages:
            return os.path.relpath(pages[file], os.path.dirname(page) or ".") + hash_sign + anchor
        kind = "tree" if (root / file).is_dir() else "blob"
        return f"{url}/{kind}/main/{file}{hash_sign}{anchor}" if (root / file).exists() else link

    def changed(text: str) -> str:
        return lists(LINK.sub(lambda match: match[1] + target(match[2]) + match[3], text))

    return outside_fences(markdown, changed)
