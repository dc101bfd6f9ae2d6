"""The examples in the docstrings of what people import: each public method has one,
and it prints what it says."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import LLM, Model, load

NAMES = {"sentiment": "bert_classifier", "colbert": "colbert", "entities": "bert_tokens"}
"""Folder below artifacts/ in the examples -> tiny checkpoint."""


def public_methods() -> Iterator[tuple[str, object]]:
    yield "load", load
    yield "Model", Model
    for owner in (Model, LLM):
        for name, member in vars(owner).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                yield f"{owner.__name__}.{name}", member


WITHOUT = {"Model.plugin"}  # it needs somebody's package to be installed
METHODS = {name: member for name, member in public_methods() if name not in WITHOUT}


@pytest.fixture(scope="module")
def folder(artifacts: Callable[[str], Path], minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: `artifacts/` below it holds the models that they name."""
    home = tmp_path_factory.mktemp("docstrings")
    (home / "artifacts").mkdir()
    for name, source in {
        "all-MiniLM-L6-v2": minilm,
        **{name: artifacts(tiny) for name, tiny in NAMES.items()},
    }.items():
        (home / "artifacts" / name).symlink_to(source)
    return home


def example_of(name: str) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.getdoc(METHODS[name]) or "", {}, name, None, None)


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_has_an_example(name):
    assert example_of(name).examples


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_docstring_prints_what_it_says(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    opened: list[Model] = []

    def remembered(*arguments, **options):
        opened.append(load(*arguments, check="quick", **options))
        return opened[-1]

    example = example_of(name)
    example.globs = {"load": remembered, "LLM": LLM, "np": np}
    problems: list[str] = []
    try:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=problems.append)
    finally:
        for model in [*opened, *(value.model for value in example.globs.values() if isinstance(value, LLM))]:
            model.close(5)
    assert not problems, "".join(problems)
