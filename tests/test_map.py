"""docs/map.md is made from the docstrings, and its journeys are the ways that work really takes."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from poolrt.exporter import cli
from poolrt.exporter.families.registry import all_architectures
from poolrt.runtime.loader import load

from tests.serve.conftest import live
from tests.test_layering import ROOMS, imports, room
from tests.walking import ROOT, Walk, walking

UNSTEADY = {"serve/process/server.py", "runtime/__init__.py", "serve/logs.py"}
"""Visited by a timer, where a public name is used for the first time in a process, and
where something is logged."""
PLAIN = {"query": "capital of France", "documents": ["Paris", "Mars"], "top_n": 1}


@pytest.fixture(scope="module")
def documents() -> Callable[[str], ModuleType]:
    """`documents("map")`: docs/map.py, imported as it is when it is run."""

    def find(name: str) -> ModuleType:
        sys.path.insert(0, str(ROOT / "docs"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(ROOT / "docs"))

    return find


@pytest.fixture(scope="module")
def export_walk(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """What `poolrt export --precision fp16` of a small BERT embedder enters."""
    checkpoint, out = checkpoints("minilm_like"), tmp_path_factory.mktemp("map")
    all_architectures()  # the families are imported once in a process, and some compute their tables then
    arguments = [str(checkpoint), "--out", str(out), "--precision", "fp16", "--json"]
    with walking() as walk:
        walk.is_on = True
        assert cli.export(arguments) == 0
    return walk


def assert_walked(walk: Walk, journey: Any) -> None:
    """Every stop is entered, each after the one before it."""
    entries = iter(walk.entries)
    for stop in journey.stops:
        assert (stop.file, stop.function) in entries, (
            f"{journey.title}: {stop.file} {stop.function} is not entered after the stops before it; "
            "mend docs/journeys.py, then run `make map`"
        )


def assert_named(walk: Walk, journey: Any) -> None:
    """Every file that is visited is a stop or passed on the way, and every file that is named is visited."""
    visited = set(walk.files) - UNSTEADY
    unnamed, left = sorted(visited - journey.files()), sorted(journey.files() - visited)
    assert not unnamed, (
        f"{journey.title} visits {unnamed}; name them in docs/journeys.py, then run `make map`"
    )
    assert not left, (
        f"{journey.title} does not visit {left}; take them out of docs/journeys.py, then run `make map`"
    )


def test_the_map_is_what_the_docstrings_say(documents: Callable[[str], ModuleType]) -> None:
    page = documents("map")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run `make map`"


def test_the_map_has_every_file_of_the_areas(documents: Callable[[str], ModuleType]) -> None:
    page = documents("map")
    text = page.PAGE.read_text(encoding="utf-8").split("\n## exporter\n", 1)[1]
    listed = re.findall(r"^ *- \**\[[\w/.]+\]\(\.\./([\w/.]+)\)", text, flags=re.MULTILINE)
    files = [path for area in ROOMS for path in (ROOT / area).rglob("*.py")]
    lines = [path.parent if path.stem == "__init__" else path for path in files]
    areas = {(ROOT / area) for area in ROOMS}
    expected = [line.relative_to(ROOT).as_posix() for line in lines if line not in areas]
    assert sorted(listed) == sorted([*expected, "package/__init__.py"]), "run `make map`"


@pytest.mark.parametrize("area", ROOMS)
def test_the_first_page_of_a_room_names_what_it_imports(area: str) -> None:
    """The sentence "It may import ..." of its `__init__`, unless that says "every room" with exceptions."""
    used: dict[str, set[str]] = {}
    for module, others in imports(area).items():
        if module:
            used.setdefault(room(area, module), set()).update(room(area, other) for other in others)
    unsaid = []
    for name, others in used.items():
        page = (ROOT / area) / name.replace(".", "/") / "__init__.py"
        if page.is_file():
            text = " ".join((ast.get_docstring(ast.parse(page.read_text(encoding="utf-8"))) or "").split())
            said = text.split("It may import", 1)[1]
            last = {other.rsplit(".", 1)[-1] for other in others if not f"{other}.".startswith(f"{name}.")}
            missing = {word for word in last if not re.search(rf"\b{word}\b", said)}
            if missing and "every" not in said:
                unsaid.append(f"{page.relative_to(ROOT)} does not say that it imports {sorted(missing)}")
    assert not unsaid


def test_every_journey_names_files_that_exist(documents: Callable[[str], ModuleType]) -> None:
    for journey in documents("journeys").JOURNEYS:
        assert not [file for file in sorted(journey.files()) if not (ROOT / file).is_file()]
        passed = [f"{folder}/{name}.py" for folder, names in journey.passed for name in names.split()]
        assert not set(passed) & {stop.file for stop in journey.stops}, "a stop is not passed on the way too"


def test_a_rerank_request_makes_the_stops_of_its_journey(
    artifacts: Callable[[str], Path], documents: Callable[[str], ModuleType]
) -> None:
    journey = documents("journeys").RERANK
    artifact = artifacts("bert_cross_encoder")
    # Threads are watched from their start, so the model is opened inside.
    with walking() as walk, load(artifact, threads=1, check="quick") as model, live(model) as server:
        body = {"model": model.name, **PLAIN}
        server.ask("/rerank", body)  # what is made once, at the first request, is no part of the journey
        walk.is_on = True
        server.ask("/rerank", body)
        walk.is_on = False
    assert_walked(walk, journey)
    assert_named(walk, journey)


def test_an_export_makes_the_stops_of_its_journey(
    export_walk: Walk, documents: Callable[[str], ModuleType]
) -> None:
    journey = documents("journeys").EXPORT
    assert_walked(export_walk, journey)
    assert_named(export_walk, journey)


def test_a_weight_makes_the_stops_of_its_journey(
    export_walk: Walk, documents: Callable[[str], ModuleType]
) -> None:
    assert_walked(export_walk, documents("journeys").WEIGHT)


def test_a_walk_notices_what_a_journey_does_not_say(documents: Callable[[str], ModuleType]) -> None:
    """The checks above can fail: on a stop that is missing, out of order, or a file that nobody named."""
    journey = documents("journeys").RERANK
    entries = [(stop.file, stop.function) for stop in journey.stops]
    stops = {stop.file for stop in journey.stops}
    passed = [(file, "some_function") for file in sorted(journey.files() - stops)]
    assert_walked(Walk(entries), journey)
    for wrong in (entries[1:], entries[:-1], [entries[1], entries[0], *entries[2:]]):
        with pytest.raises(AssertionError, match="is not entered"):
            assert_walked(Walk(wrong), journey)
    assert_named(Walk([*entries, *passed]), journey)
    with pytest.raises(AssertionError, match=r"visits \['serve/pages/openapi\.py'\]"):
        assert_named(Walk([*entries, *passed, ("serve/pages/openapi.py", "document")]), journey)
    with pytest.raises(AssertionError, match=f"does not visit .*{re.escape(passed[0][0])}"):
        assert_named(Walk([*entries, *passed[1:]]), journey)
