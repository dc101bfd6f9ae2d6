"""The OpenAPI 3.1 document, made from the route table and the request schemas, so that it always agrees with
the server."""

from __future__ import annotations

import re
from typing import Any

from ...runtime.version import version
from ..endpoints.route import BYTES, JSON, Route
from ..endpoints.routes import ROUTES
from ..schema.validation import json_schema
from ..settings import Settings
from .groups import EXAMPLES, GROUPS, REST, group_of, ordered

TYPED = re.compile(r":\w+}")
"""The type of a path's parameter, with the brace behind it."""
ERROR = {"$ref": "#/components/schemas/Error"}

NUMBERS = {"type": "array", "items": {"type": "number"}}
USAGE = {
    "type": "object",
    "properties": {
        "prompt_tokens": {"type": "integer"},
        "total_tokens": {"type": "integer"},
        "completion_tokens": {"type": "integer"},
        "prompt_tokens_details": {"type": "null"},
        "completion_tokens_details": {"type": "null"},
    },
    "required": ["prompt_tokens", "total_tokens"],
}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list of items, with usage."""
    properties = {
        "id": {"type": "string"},
        "object": {"const": "list"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "data": {"type": "array", "items": item},
        "usage": USAGE,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def record(**properties: Any) -> dict[str, Any]:
    """The schema of an object whose properties are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def with_texts(answer: dict[str, Any]) -> dict[str, Any]:
    """The schema of a Cohere response, which repeats `texts`, but neither `images` nor `inputs`."""
    texts = {
        "type": "array",
        "items": {"type": "string"},
        "description": "as they were sent, where they were",
    }
    return answer | {"properties": answer["properties"] | {"texts": texts}}


TEI_RANKING = {
    "type": "array",
    "description": "TEI's form, asked for with `texts`",
    "items": {
        "type": "object",
        "properties": {"index": {"type": "integer"}, "score": {"type": "number"}, "text": {"type": "string"}},
        "required": ["index", "score"],
    },
}

ANSWERS: dict[str, dict[str, Any]] = {
    "EmbeddingAnswer": listed(
        record(
            index={"type": "integer"},
            object={"const": "embedding"},
            embedding={"anyOf": [NUMBERS, {"type": "string"}]},
        )
    ),
    "PoolingAnswer": {
        "anyOf": [
            listed(
                record(
                    index={"type": "integer"},
                    object={"const": "pooling"},
                    data={
                        "anyOf": [
                            NUMBERS,
                            {"type": "array", "items": NUMBERS},
                            {"type": "string"},
                            {"type": "object"},
                        ]
                    },
                )
            ),
            record(request_id={"type": "string"}, created_at={"type": "integer"}, data={}),
        ]
    },
    "ClassifyAnswer": listed(
        record(
            index={"type": "integer"},
            label={"type": ["string", "null"]},
            probs=NUMBERS,
            num_classes={"type": "integer"},
        )
    ),
    "ScoreAnswer": listed(
        record(index={"type": "integer"}, object={"const": "score"}, score={"type": "number"})
    ),
    "RerankAnswer": record(
        id={"type": "string"},
        model={"type": "string"},
        usage=record(prompt_tokens={"type": "integer"}, total_tokens={"type": "integer"}),
        results={
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "document": {
                        "type": "object",
                        "properties": {"text": {"type": ["string", "null"]}, "multi_modal": {}},
                        "description": "absent with `return_documents`: false",
                    },
                    "relevance_score": {"type": "number"},
                    "truncated": {"type": "boolean", "description": "with `truncate_documents`"},
                },
                "required": ["index", "relevance_score"],
            },
        },
    ),
    "AnyRerankAnswer": {"anyOf": [{"$ref": "#/components/schemas/RerankAnswer"}, TEI_RANKING]},
    "CohereAnswer": with_texts(
        record(
            id={"type": "string"},
            embeddings={"anyOf": [{"type": "object"}, {"type": "array", "items": NUMBERS}]},
            meta={"type": "object"},
            response_type={"enum": ["embeddings_by_type", "embeddings_floats"]},
        )
    ),
    "CohereV1Answer": with_texts(
        record(
            id={"type": "string"},
            embeddings={"anyOf": [{"type": "array", "items": NUMBERS}, {"type": "object"}]},
            meta={"type": "object"},
            response_type={"enum": ["embeddings_floats", "embeddings_by_type"]},
        )
    ),
    "TokenizeAnswer": {
        "anyOf": [
            record(
                count={"type": "integer"},
                max_model_len={"type": "integer"},
                tokens={"type": "array", "items": {"type": "integer"}},
                token_strs={"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            ),
            {"type": "array", "description": "TEI's form, asked for with `inputs`"},
        ]
    },
    "DetokenizeAnswer": record(prompt={"type": "string"}),
    "CohereTokenizeAnswer": record(
        tokens={"type": "array", "items": {"type": "integer"}},
        token_strings={"type": "array", "items": {"type": "string"}},
        meta={"type": "object"},
    ),
    "CohereDetokenizeAnswer": record(text={"type": "string"}, meta={"type": "object"}),
    "Anything": {},
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "anyOf": [
                    record(
                        message={"type": "string"},
                        type={"type": "string"},
                        param={"type": ["string", "null"]},
                        code={"type": "integer"},
                    ),
                    {"type": "string"},
                ]
            },
            "detail": {"type": "string"},
        },
    },
}


def document(settings: Settings) -> dict[str, Any]:
    """The document for the routes that are on with these settings."""
    definitions: dict[str, Any] = dict(ANSWERS)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        if route.is_on(settings):
            paths.setdefault(plain_path(route.path), {}).update(path_item(route, definitions))
    used = {tag for item in paths.values() for described in item.values() for tag in described["tags"]}
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "poolrt",
            "version": version(),
            "description": (
                "Pooling models (embeddings, scores, rankings, classes) behind the API of vLLM, "
                "OpenAI, Cohere, Jina and TEI."
            ),
        },
        "tags": [{"name": group} for group in (*GROUPS, REST) if group in used],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of the keys given with --api-key",
                }
            },
        },
    }
    if settings.root_path:
        content["servers"] = [{"url": settings.root_path}]
    if settings.api_keys:
        content["security"] = [{"key": []}]
    return content


def path_item(route: Route, definitions: dict[str, Any]) -> dict[str, Any]:
    """The path item of one route. Adds the schemas of the records inside its bodies to `definitions`."""
    if route.methods == ("POST",):
        return {"post": post(route, definitions)}
    operation_get = get(route)
    if route.methods == ("DELETE",):
        return {"delete": operation_get | {"operationId": f"{operation_get['operationId']}_delete"}}
    item = {"get": operation_get | {"security": []} if route.is_probe else operation_get}
    if "POST" in route.methods:
        item["post"] = item["get"] | {"operationId": f"{operation_get['operationId']}_post"}
    return item


def plain_path(path: str) -> str:
    """The path without the types of its parameters (`{model:path}`), which are Starlette's own."""
    return TYPED.sub("}", path)


def operation(route: Route, responses: dict[str, Any]) -> dict[str, Any]:
    path = plain_path(route.path)
    content: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "summary": route.about,
        "tags": [group_of(path)],
    }
    if names := re.findall(r"{(\w+)}", path):
        text = {"in": "path", "required": True, "schema": {"type": "string"}}
        content["parameters"] = [{"name": name} | text for name in names]
    return content | {"responses": responses}


def get(route: Route) -> dict[str, Any]:
    content = {media: {"schema": {}} for media in route.media}
    succeeded = {"description": "OK"} | ({"content": content} if content else {})
    failed = {str(status): {"description": when} for status, when in route.failures.items()}
    return operation(route, {"200": succeeded, **failed})


def post(route: Route, definitions: dict[str, Any]) -> dict[str, Any]:
    forms = [ordered(json_schema(form, definitions)) for body in route.bodies for _, form in body.forms]
    schema: dict[str, Any] = {"anyOf": forms} if len(forms) > 1 else forms[0] if forms else {"type": "object"}
    content: dict[str, Any] = {}
    for media in route.media:
        if media == JSON:
            content[media] = {"schema": {"$ref": f"#/components/schemas/{route.response or 'Anything'}"}}
        else:
            content[media] = {"schema": {"type": "string"} | ({"format": "binary"} if media == BYTES else {})}
    failed = {"content": {JSON: {"schema": ERROR}}}
    responses = {
        "200": {"description": "OK", "content": content},
        "400": {
            "description": "The request is not usable; the message names the field and what to change",
            **failed,
        },
        "401": {"description": "No key, or a wrong one", **failed},
        "404": {"description": "Unknown model, or no served model can do this", **failed},
        "413": {"description": "The body is larger than --max-body-bytes", **failed},
        "422": {"description": "TEI's routes: the request is not usable", **failed},
        "429": {"description": "Too much is queued; try again after Retry-After seconds", **failed},
        "503": {"description": "Loading or stopping", **failed},
        "504": {"description": "Not computed within --request-timeout", **failed},
    }
    described = operation(route, responses)
    if any(other.path == route.path and other is not route for other in ROUTES):
        described["operationId"] += "_post"
    if not route.bodies and route.takes == JSON and "{" in route.path:
        return described  # everything is in the path
    taken: dict[str, Any] = {"schema": schema}
    if example := EXAMPLES.get(plain_path(route.path)):
        taken["example"] = example
    return described | {"requestBody": {"required": True, "content": {route.takes: taken}}}
