"""A name says what the thing is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMELESS = {"made", "found", "one", "told", "here", "given", "asked", "each"}
"""What was done to a thing, or that there is one: each of them could be any variable of the program."""


@pytest.mark.parametrize("area", ["package", "exporter", "runtime", "serve"])
def test_no_variable_has_a_name_that_says_nothing(area: str) -> None:
    nameless = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in sorted((ROOT / area).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        if (name := node.arg if isinstance(node, ast.arg) else node.id) in NAMELESS
    ]
    assert not nameless
