"""Our own OpenAPI 3.1 document, made from the request schemas, so that it never tells another story than the server."""

from __future__ import annotations

from typing import Any

from . import schemas, schemas_tei
from .body import Body
from .gate import OPEN
from .kinds import record_of
from .settings import Settings
from .version import version

ERROR = {"$ref": "#/components/schemas/Error"}

TEXT_ROUTES: tuple[tuple[str, str, Body | None, str], ...] = (
    ("/v1/embeddings", "Embeddings, as OpenAI's clients ask", schemas.EMBEDDINGS, "EmbeddingAnswer"),
    ("/v2/embed", "Embeddings, as Cohere's clients ask", schemas.COHERE, "CohereAnswer"),
    ("/v1/embed", "Embeddings, as clients of Cohere's first API ask", schemas.COHERE_V1, "CohereV1Answer"),
    ("/pooling", "Any task of any model: embed, token_embed, classify, token_classify", schemas.POOLING, "PoolingAnswer"),
    ("/classify", "Classes of texts", schemas.CLASSIFY, "ClassifyAnswer"),
    ("/score", "Scores of pairs: 1:1, 1:N or N:N", schemas.SCORE, "ScoreAnswer"),
    ("/v1/score", "The same as /score", schemas.SCORE, "ScoreAnswer"),
    ("/rerank", "Documents by falling relevance (Jina, Cohere; with `texts`: TEI)", schemas.RERANK, "AnyRerankAnswer"),
    ("/v1/rerank", "The same as /rerank", schemas.RERANK, "RerankAnswer"),
    ("/v2/rerank", "The same as /rerank", schemas.RERANK, "RerankAnswer"),
    ("/embeddings", "The same as /v1/embeddings, for clients whose base URL has no /v1", schemas.EMBEDDINGS, "EmbeddingAnswer"),
    ("/tokenize", "Token ids of a text or a conversation", schemas.TOKENIZE, "TokenizeAnswer"),
    ("/detokenize", "Text of token ids", schemas.DETOKENIZE, "DetokenizeAnswer"),
    ("/invocations", "SageMaker: any of the bodies above", None, "Anything"),
    ("/embed", "TEI: embeddings", schemas_tei.EMBED, "Anything"),
    ("/embed_all", "TEI: embeddings of every token", schemas_tei.EMBED, "Anything"),
    ("/embed_sparse", "TEI: sparse embeddings", schemas_tei.EMBED, "Anything"),
    ("/predict", "TEI: classes", schemas_tei.PREDICT, "Anything"),
    ("/similarity", "TEI: cosine similarities", schemas_tei.SIMILARITY, "Anything"),
    ("/decode", "TEI: text of token ids", schemas_tei.DECODE, "Anything"),
)
LORA_ROUTES: tuple[tuple[str, str, Body | None, str], ...] = (
    ("/v1/load_lora_adapter", "Serve a LoRA adapter of the server's disk as another model", schemas.LOAD_ADAPTER, "Anything"),
    ("/v1/unload_lora_adapter", "Stop serving an adapter, after its last request", schemas.UNLOAD_ADAPTER, "Anything"),
)
GET_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("/v1/models", "The models served here", "application/json"),
    ("/models", "The same as /v1/models", "application/json"),
    ("/info", "TEI: what the first model is", "application/json"),
    ("/tokenizer_info", "The tokenizer's settings (needs --enable-tokenizer-info-endpoint)", "application/json"),
    ("/health", "200 when ready and alive, else 503; no key needed", ""),
    ("/live", "200 while the process works, also before models are loaded; no key needed", ""),
    ("/ready", "200 when models are loaded and the server is not stopping; no key needed", ""),
    ("/ping", "SageMaker: as /health; no key needed", ""),
    ("/version", "The version of poolrt", "application/json"),
    ("/load", "Requests being answered (needs --enable-server-load-tracking)", "application/json"),
    ("/metrics", "Prometheus metrics", "text/plain"),
)

FAILURES: dict[str, dict[str, Any]] = {
    "/tokenizer_info": {"404": {"description": "Not switched on"}},
    "/health": {"503": {"description": "Not ready, or the engine has failed"}},
    "/live": {"503": {"description": "The process hangs"}},
    "/ready": {"503": {"description": "Loading or stopping"}},
    "/ping": {"503": {"description": "Not ready, or the engine has failed"}},
}
"""Of the GET routes, beside 200."""

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
    return {"type": "object", "properties": properties, "required": list(properties)}


def with_texts(answer: dict[str, Any]) -> dict[str, Any]:
    """Cohere's answer to `texts` repeats them, one to `images` or `inputs` does not."""
    texts = {"type": "array", "items": {"type": "string"}, "description": "as they were sent, where they were"}
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
        record(index={"type": "integer"}, object={"const": "embedding"}, embedding={"anyOf": [NUMBERS, {"type": "string"}]})
    ),
    "PoolingAnswer": {
        "anyOf": [
            listed(
                record(
                    index={"type": "integer"},
                    object={"const": "pooling"},
                    data={"anyOf": [NUMBERS, {"type": "array", "items": NUMBERS}, {"type": "string"}, {"type": "object"}]},
                )
            ),
            record(request_id={"type": "string"}, created_at={"type": "integer"}, data={}),
        ]
    },
    "ClassifyAnswer": listed(
        record(index={"type": "integer"}, label={"type": ["string", "null"]}, probs=NUMBERS, num_classes={"type": "integer"})
    ),
    "ScoreAnswer": listed(record(index={"type": "integer"}, object={"const": "score"}, score={"type": "number"})),
    "RerankAnswer": record(
        id={"type": "string"},
        model={"type": "string"},
        usage=record(prompt_tokens={"type": "integer"}, total_tokens={"type": "integer"}),
        results={
            "type": "array",
            "items": record(
                index={"type": "integer"},
                document={"type": "object", "properties": {"text": {"type": ["string", "null"]}, "multi_modal": {}}},
                relevance_score={"type": "number"},
            ),
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
    "Anything": {},
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "anyOf": [
                    record(
                        message={"type": "string"}, type={"type": "string"}, param={"type": ["string", "null"]}, code={"type": "integer"}
                    ),
                    {"type": "string"},
                ]
            },
            "detail": {"type": "string"},
        },
    },
}


def document(settings: Settings) -> dict[str, Any]:
    routes = (*TEXT_ROUTES, *(LORA_ROUTES if settings.runtime_lora else ()))
    paths: dict[str, Any] = {path: {"post": post(path, about, body, answer)} for path, about, body, answer in routes}
    for path, about, media in GET_ROUTES:
        content = {media: {"schema": {}}} if media else None
        answers = {"200": {"description": "OK", **({"content": content} if content else {})}, **FAILURES.get(path, {})}
        paths[path] = {"get": operation(path, about, answers)}
        if path in OPEN:
            paths[path]["get"]["security"] = []
    paths["/ping"]["post"] = paths["/ping"]["get"] | {"operationId": "ping_post"}
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "poolrt",
            "version": version(),
            "description": "Pooling models (embeddings, scores, rankings, classes) behind the API of vLLM, OpenAI, Cohere, Jina and TEI.",
        },
        "paths": paths,
        "components": {
            "schemas": ANSWERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "One of the keys given with --api-key"}},
        },
    }
    if settings.root_path:
        made["servers"] = [{"url": settings.root_path}]
    if settings.api_keys:
        made["security"] = [{"key": []}]
    return made


def operation(path: str, about: str, answers: dict[str, Any]) -> dict[str, Any]:
    name = path.strip("/").replace("/", "_")
    return {"operationId": name, "summary": about, "responses": answers}


def post(path: str, about: str, body: Body | None, answer: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if body is not None:
        forms = [record_of(form).schema() for _, form in body.forms]
        schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    if path == "/rerank":
        schema = {"anyOf": [schema, record_of(schemas_tei.TeiRerank).schema()]}
    if path == "/tokenize":
        schema = {"anyOf": [*schema["anyOf"], record_of(schemas_tei.TeiTokenize).schema()]}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    if path in {route[0] for route in LORA_ROUTES}:
        content = {"text/plain": {"schema": {"type": "string"}}}
    if path in ("/v1/embeddings", "/embeddings", "/pooling"):
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    failed = {"content": {"application/json": {"schema": ERROR}}}
    answers = {
        "200": {"description": "OK", "content": content},
        "400": {"description": "The request is not usable; the message names the field and what to change", **failed},
        "401": {"description": "No key, or a wrong one", **failed},
        "404": {"description": "Unknown model, or no served model can do this", **failed},
        "413": {"description": "The body is larger than --max-body-bytes", **failed},
        "422": {"description": "TEI's routes: the request is not usable", **failed},
        "429": {"description": "Too much is queued; try again after Retry-After seconds", **failed},
        "503": {"description": "Loading or stopping", **failed},
        "504": {"description": "Not computed within --request-timeout", **failed},
    }
    made = operation(path, about, answers)
    return made | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
