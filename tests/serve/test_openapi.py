"""The OpenAPI document tells what the server does, and the pages need nothing from outside."""

from __future__ import annotations

import re
from typing import Any

import pytest
from poolrt.serve.app import routes
from poolrt.serve.openapi import document
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live

UNDOCUMENTED = {"/", "/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json", "/playground.json"}
DOCUMENT = document(Settings())


def test_every_route_is_documented():
    served = {(route.path, method) for route in routes(Settings()) for method in route.methods or () if method != "HEAD"}
    told = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert {one for one in served if one[0] not in UNDOCUMENTED} == told


def test_references_lead_somewhere():
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                *_, name = value["$ref"].split("/")
                assert name in DOCUMENT["components"]["schemas"]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)


def test_fields_carry_their_bounds_and_defaults():
    schema = DOCUMENT["paths"]["/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"][0]
    assert schema["required"] == ["query", "documents"]
    assert schema["properties"]["top_n"] == {
        "type": "integer", "minimum": 0, "default": 0, "description": "best documents to answer; 0: all",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_load_nothing_from_outside(embedder: Live, path):
    page = embedder.client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|//cdn|src=|@import", page.text)


def test_the_document_is_served(embedder: Live):
    told = embedder.client.get("/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    assert told == DOCUMENT
