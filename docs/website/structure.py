"""The picture of the architecture, drawn from the rooms and imports of the code as it is."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, ROW, GAP, TOP = 190, 24, 40, 70
ORDER = ("exporter", "runtime", "serve")


def page(root: Path) -> str:
    """The page: the picture, and what it shows in words."""
    rooms = importlib.import_module("tests.test_layering").ROOMS
    between = sorted(_imports(root, rooms))
    words = "\n".join(
        f"- {importer} imports {imported} ({files} files)" for importer, imported, files in between
    )
    listed = "\n".join(f"| {area} | {len(rooms[area])} | {', '.join(rooms[area])} |" for area in ORDER)
    return f"""\
# Architecture

An export turns a checkpoint into an artifact, a folder; the runtime opens it; the server and the modules
for other libraries call the runtime. Between exporter and serve there is nothing but the artifact.

<div class="wide" markdown="0">{picture(rooms, between)}</div>

The picture is drawn from the code when this site is built: each box is a room, and a room imports only rooms
below it. An arrow means that files of one area import another one:

{words}

| area | rooms | from the bottom up |
|---|---|---|
{listed}

[The map](map.md) has every file in a line and follows a text, a checkpoint and a weight through them;
[a decision](decisions/rooms.md) says why the rooms are cut so.
"""


def picture(rooms: dict[str, tuple[str, ...]], between: list[tuple[str, str, int]]) -> str:
    """The SVG: a column for each area with a box for each room, the top one first; colours are the page's."""
    tallest = max(len(rooms[area]) for area in ORDER)
    width, height = len(ORDER) * (WIDTH + GAP), TOP + tallest * ROW + 20
    names = ", ".join(f"{importer} to {imported}" for importer, imported, _ in between)
    parts = [
        f'<svg class="structure" viewBox="0 0 {width} {height}" role="img" aria-label="Rooms of each area; '
        f'imports between areas: {names}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>',
    ]
    places = {area: GAP / 2 + number * (WIDTH + GAP) for number, area in enumerate(ORDER)}
    for area, left in places.items():
        parts.append(
            f'<text x="{left + WIDTH / 2}" y="{TOP - 14}" class="area" text-anchor="middle">{area}</text>'
        )
        for number, room in enumerate(reversed(rooms[area])):
            y = TOP + number * ROW
            parts.append(f'<rect x="{left}" y="{y}" width="{WIDTH}" height="{ROW - 4}" rx="4"/>')
            parts.append(f'<text x="{left + 8}" y="{y + 14}">{escape(room)}</text>')
    for importer, imported, _ in between:
        start, end = places[importer] + WIDTH / 2, places[imported] + WIDTH / 2
        low = TOP - 32
        high = low - 14 - 10 * abs(ORDER.index(importer) - ORDER.index(imported))
        parts.append(
            f'<path d="M{start} {low}C{start} {high} {end} {high} {end} {low}" '
            'class="arrow" marker-end="url(#tip)"/>'
        )
    return "".join([*parts, "</svg>"])


def _imports(root: Path, rooms: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str, int]]:
    """Importing area, imported area, number of files that do."""
    for area in ORDER:
        counts = dict.fromkeys((other for other in rooms if other != area), 0)
        folder = root / area
        for path in sorted(folder.rglob("*.py")):
            depth = 1 + len(path.relative_to(folder).parts)
            for other in {
                (node.module or "").partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and node.level == depth
            } & counts.keys():
                counts[other] += 1
        yield from ((area, other, count) for other, count in counts.items() if count)
