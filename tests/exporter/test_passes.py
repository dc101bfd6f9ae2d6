"""Every pass has the one signature, and the table of their order names each of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import get_args

import pytest
from poolrt.exporter.graph import passes
from poolrt.exporter.graph.passes import order

MODULES = [
    importlib.import_module(f"{passes.__name__}.{module.name}")
    for module in pkgutil.iter_modules(passes.__path__)
]
PASSES = [module for module in MODULES if hasattr(module, "run")]
NOT_PASSES = {"order", "rows", "signature", "surgery"}


def name_of(module: object) -> str:
    assert isinstance(module, ModuleType)
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("graph_pass", PASSES, ids=name_of)
def test_a_pass_has_the_one_signature(graph_pass: ModuleType) -> None:
    signature = inspect.signature(graph_pass.run)
    assert {name: parameter.annotation for name, parameter in signature.parameters.items()} == {
        "model": "ir.Model",
        "options": "PassOptions",
    }
    assert signature.return_annotation == "PassResult"


def test_every_file_is_a_pass_that_some_graph_goes_through() -> None:
    assert {name_of(module) for module in MODULES} - NOT_PASSES == {name_of(module) for module in PASSES}
    assert {name_of(graph_pass) for row in order.ORDER.values() for graph_pass in row} == {
        name_of(module) for module in PASSES
    }


def test_the_page_says_what_the_table_does() -> None:
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \|$", order.__doc__ or "", flags=re.MULTILINE)
    assert {form: names.split(", ") for form, names in rows if form != "form"} == {
        form: [name_of(graph_pass) for graph_pass in row] for form, row in order.ORDER.items()
    }
    assert set(order.ORDER) == set(get_args(order.Form))
