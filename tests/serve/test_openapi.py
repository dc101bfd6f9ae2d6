"""The OpenAPI document tells what the server does, and the pages need nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from poolrt.serve.app import routes
from poolrt.serve.pages import playground_routes
from poolrt.serve.pages.groups import REST
from poolrt.serve.pages.openapi import document, plain_path
from poolrt.serve.settings import Settings

from tests.serve.cases import TEXT, TEXTS
from tests.serve.conftest import Live

PAGES = {"/", "/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json", "/playground.json"}
UNDOCUMENTED = PAGES | {route.path for route in playground_routes.ROUTES}
DOCUMENT = document(Settings())


def test_every_route_is_documented():
    served = {
        (plain_path(route.path), method)
        for route in routes(Settings())
        for method in route.methods or ()
        if method != "HEAD"
    }
    told = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert {one for one in served if one[0] not in UNDOCUMENTED} == told


def test_the_page_of_the_wire_names_every_route():
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
    paths = document(Settings(runtime_lora=True, batch_folder=Path()))["paths"]
    assert not [path for path in paths if f"`{path}`" not in page]


def test_parameters_of_paths_are_declared():
    operation = DOCUMENT["paths"]["/v1/models/{model}"]["get"]
    assert operation["parameters"] == [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    assert re.fullmatch(r"\w+", operation["operationId"])


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
    schema = DOCUMENT["paths"]["/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "anyOf"
    ][0]
    assert schema["required"] == ["query", "documents"]
    assert schema["properties"]["top_n"] == {
        "type": "integer", "minimum": 0, "default": 0, "description": "best documents to answer; 0: all",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_load_nothing_from_outside(embedder: Live, path):
    page = embedder.client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|src=|@import", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_routes_stand_in_groups_and_bodies_have_examples():
    groups = [group["name"] for group in DOCUMENT["tags"]]
    assert groups[0] == "Embeddings"
    assert REST not in groups, "every route has a group of its own"
    for path, methods in DOCUMENT["paths"].items():
        for described in methods.values():
            assert described["tags"][0] in groups
            content = described.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                assert not wrong(content["example"], content["schema"]), path


def test_the_model_and_what_it_reads_come_first():
    schema = part("/v1/embeddings")
    assert list(schema["anyOf"][0]["properties"])[:2] == ["model", "input"]
    assert list(part("/rerank")["anyOf"][0]["properties"])[:3] == ["model", "query", "documents"]


def test_the_document_is_served(embedder: Live):
    told = embedder.client.get("/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    assert told == DOCUMENT


TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
SPOKEN = {"description", "default", "title", "format"}


def wrong(value: Any, schema: dict[str, Any], at: str = "$", *, closed: bool = False) -> list[str]:
    """What of a value is not as a JSON schema says; `closed`: nor may it have a key that no schema names.
    Raises KeyError for a keyword or a type that JSON schema does not have."""
    found: list[str] = []
    for keyword, told in schema.items():
        match keyword:
            case "$ref":
                found += wrong(
                    value,
                    DOCUMENT["components"]["schemas"][told.removeprefix("#/components/schemas/")],
                    at,
                    closed=closed,
                )
            case "anyOf":
                tried = [wrong(value, each, at, closed=closed) for each in told]
                found += [] if [] in tried else min(tried, key=len)
            case "type":
                kinds = [TYPES[kind] for kind in ([told] if isinstance(told, str) else told)]
                if not any(
                    isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
                    for kind in kinds
                ):
                    found.append(f"{at}: {value!r} is no {told}")
            case "properties":
                found += (
                    [f"{at}.{name}: not documented" for name in value if name not in told]
                    if closed and isinstance(value, dict)
                    else []
                )
                for name, inner in told.items():
                    found += (
                        wrong(value[name], inner, f"{at}.{name}", closed=closed)
                        if isinstance(value, dict) and name in value
                        else []
                    )
            case "required":
                found += [
                    f"{at}.{name}: missing"
                    for name in told
                    if not isinstance(value, dict) or name not in value
                ]
            case "items":
                found += (
                    [problem for item in value for problem in wrong(item, told, f"{at}[]", closed=closed)]
                    if isinstance(value, list)
                    else []
                )
            case "const" | "enum":
                found += (
                    []
                    if value in (told if keyword == "enum" else [told])
                    else [f"{at}: {value!r} is not {told}"]
                )
            case "minimum" | "maximum":
                beyond = isinstance(value, int) and (value < told if keyword == "minimum" else value > told)
                found += [f"{at}: {value} is beyond {told}"] if beyond else []
            case "minItems":
                found += [f"{at}: too few"] if isinstance(value, list) and len(value) < told else []
            case _ if keyword not in SPOKEN:
                raise KeyError(keyword)
    return found


def part(path: str, *, status: str | None = None) -> dict[str, Any]:
    told = DOCUMENT["paths"][path]["post"]
    told = told["requestBody"] if status is None else told["responses"][status]
    return told["content"]["application/json"]["schema"]


EXAMPLES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # path, a body, what is added to make it wrong
    ("/v1/embeddings", {"model": "minilm_like", "input": TEXTS}, {"input": 5}),
    (
        "/v1/embeddings",
        {"model": "minilm_like", "input": TEXT, "encoding_format": "base64"},
        {"encoding_format": "x"},
    ),
    ("/embeddings", {"model": "minilm_like", "input": TEXT}, {"dimensions": "x"}),
    (
        "/v2/embed",
        {"model": "minilm_like", "texts": TEXTS, "embedding_types": ["float", "base64"]},
        {"texts": "a"},
    ),
    ("/v1/embed", {"model": "minilm_like", "texts": TEXTS}, {"texts": 5}),
    ("/pooling", {"model": "minilm_like", "input": TEXT, "task": "token_embed"}, {"task": "fly"}),
    (
        "/pooling",
        {"model": "bge_m3", "input": TEXT, "task": "token_classify", "encoding_format": "sparse"},
        {"priority": "x"},
    ),
    ("/classify", {"model": "bert_classifier", "input": TEXTS}, {"input": {}}),
    (
        "/score",
        {"model": "bert_cross_encoder", "queries": TEXT, "documents": TEXTS},
        {"documents": None, "queries": None},
    ),
    ("/v1/score", {"model": "minilm_like", "text_1": TEXT, "text_2": TEXTS}, {"text_1": 5}),
    (
        "/rerank",
        {"model": "bert_cross_encoder", "query": TEXT, "documents": TEXTS, "top_n": 2},
        {"top_n": -1},
    ),
    (
        "/rerank",
        {"model": "bert_cross_encoder", "query": TEXT, "texts": TEXTS, "return_text": True},
        {"texts": 5},
    ),
    ("/v1/rerank", {"model": "minilm_like", "query": TEXT, "documents": TEXTS}, {"query": 5}),
    ("/v2/rerank", {"model": "colbert", "query": TEXT, "documents": TEXTS}, {"documents": 5}),
    ("/tokenize", {"model": "minilm_like", "prompt": TEXT, "return_token_strs": True}, {"prompt": 5}),
    ("/tokenize", {"model": "minilm_like", "inputs": TEXT}, {"inputs": 5}),
    ("/detokenize", {"model": "minilm_like", "tokens": [6, 7]}, {"tokens": "x"}),
    ("/v1/tokenize", {"model": "minilm_like", "text": TEXT}, {"text": 5}),
    ("/v1/detokenize", {"model": "minilm_like", "tokens": [6, 7]}, {"tokens": "x"}),
    ("/embed", {"model": "minilm_like", "inputs": TEXT}, {"normalize": "x"}),
    (
        "/predict",
        {"model": "bert_classifier", "inputs": TEXT, "parameters": {"top_k": 1}},
        {"parameters": {"top_k": 0}},
    ),
    (
        "/similarity",
        {"model": "minilm_like", "inputs": {"source_sentence": "a", "sentences": ["b"]}},
        {"inputs": {"sentences": ["b"]}},
    ),
    ("/decode", {"model": "minilm_like", "ids": [6]}, {"ids": "x"}),
]


@pytest.mark.parametrize(
    ("path", "body", "change"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_sent_and_answered_is_what_is_documented(
    everything: Live, path: str, body: dict[str, Any], change: dict[str, Any]
):
    assert not wrong(body, part(path))
    answer = everything.ask(path, body)
    assert not wrong(answer, part(path, status="200"), closed=True)
    assert wrong(body | change, part(path))
    refused = everything.post(path, body | change)
    assert refused.status_code in (400, 422)
    assert not wrong(refused.json(), part(path, status=str(refused.status_code)))
    if "object" in answer:
        assert wrong(answer | {"object": 5}, part(path, status="200"))


def test_every_text_route_tells_its_failures():
    for methods in DOCUMENT["paths"].values():
        for method, told in methods.items():
            assert told["responses"]["200"]["description"] == "OK"
            assert all(response["description"] for response in told["responses"].values())
            if "requestBody" in told:
                assert method == "post"
                assert {"400", "401", "404", "413", "422", "429", "503", "504"} < set(told["responses"])
    operations = [told["operationId"] for methods in DOCUMENT["paths"].values() for told in methods.values()]
    assert len(operations) == len(set(operations))
    assert {"v1_embeddings", "ping", "ping_post"} <= set(operations)


def test_probes_tell_when_they_fail():
    failing = {
        path: set(methods["get"]["responses"]) - {"200"}
        for path, methods in DOCUMENT["paths"].items()
        if "get" in methods
    }
    assert {path: told for path, told in failing.items() if told} == {
        "/v1/models/{model}": {"404"}, "/models/{model}": {"404"},
        "/tokenizer_info": {"404"}, "/health": {"503"}, "/live": {"503"}, "/ready": {"503"}, "/ping": {"503"},
    }  # fmt: skip


def test_only_health_needs_no_key():
    open_paths = {
        path
        for path, methods in DOCUMENT["paths"].items()
        for told in methods.values()
        if told.get("security") == []
    }
    assert open_paths == {"/health", "/live", "/ready", "/ping"}
    assert "security" not in DOCUMENT
    assert document(Settings(api_keys=("a",)))["security"] == [{"key": []}]
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_a_prefix_and_adapters_are_documented_where_they_are():
    assert document(Settings(root_path="/pool"))["servers"] == [{"url": "/pool"}]
    assert "servers" not in DOCUMENT
    assert "/v1/load_lora_adapter" not in DOCUMENT["paths"]
    told = document(Settings(runtime_lora=True))["paths"]["/v1/load_lora_adapter"]["post"]
    assert list(told["responses"]["200"]["content"]) == ["text/plain"]


def test_bytes_are_documented_where_they_may_be_asked_for():
    binary = [
        path for path, methods in DOCUMENT["paths"].items()
        if "application/octet-stream" in methods.get("post", {}).get("responses", {}).get("200",
        {}).get("content", {})
    ]  # fmt: skip
    assert binary == ["/v1/embeddings", "/pooling", "/embeddings"]
    assert DOCUMENT["paths"]["/metrics"]["get"]["responses"]["200"]["content"] == {
        "text/plain": {"schema": {}}
    }
