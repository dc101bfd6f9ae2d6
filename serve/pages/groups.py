"""How the API's routes are told to people: in groups, each route with an example, and the fields that matter
first."""

from __future__ import annotations

from typing import Any

GROUPS: dict[str, tuple[str, ...]] = {
    "Embeddings": ("/v1/embeddings", "/embeddings", "/v2/embed", "/v1/embed"),
    "Scores and rankings": ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"),
    "Classes and any task": ("/classify", "/pooling"),
    "Tokens": ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/tokenizer_info"),
    "Models": ("/v1/models", "/models", "/v1/artifacts", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    "Batch files": ("/v1/files", "/v1/batches"),
    "Text Embeddings Inference": (
        "/embed", "/embed_all", "/embed_sparse", "/predict", "/similarity", "/decode", "/info",
    ),
    "Ollama": ("/api",),
    "Operations": ("/health", "/live", "/ready", "/ping", "/version", "/load", "/metrics", "/invocations"),
}  # fmt: skip
"""Group -> its routes, by their paths or the beginnings of paths that end before a slash."""
REST = "More"

FIRST = (
    "model", "input", "inputs", "texts", "text", "messages", "prompt", "query", "queries", "text_1",
    "documents", "text_2", "tokens", "ids", "task", "input_type", "dimensions", "top_n",
)  # fmt: skip

QUESTION, ANSWER = "What is the capital of France?", "Paris is the capital of France."
PAIR = {"queries": QUESTION, "documents": [ANSWER, "Mars is red."]}
RANKING = {"query": QUESTION, "documents": ["Mars is red.", ANSWER]}
EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": [QUESTION, ANSWER]},
    "/embeddings": {"input": [QUESTION, ANSWER]},
    "/v2/embed": {"texts": [QUESTION], "embedding_types": ["float"]},
    "/v1/embed": {"texts": [QUESTION]},
    "/pooling": {"input": QUESTION},
    "/classify": {"input": QUESTION},
    "/score": PAIR,
    "/v1/score": PAIR,
    "/rerank": RANKING,
    "/v1/rerank": RANKING,
    "/v2/rerank": RANKING,
    "/tokenize": {"prompt": QUESTION, "return_token_strs": True},
    "/detokenize": {"tokens": [101, 102]},
    "/v1/tokenize": {"text": QUESTION},
    "/v1/detokenize": {"tokens": [101, 102]},
    "/invocations": {"input": QUESTION},
    "/embed": {"inputs": [QUESTION]},
    "/embed_all": {"inputs": QUESTION},
    "/embed_sparse": {"inputs": QUESTION},
    "/predict": {"inputs": QUESTION},
    "/similarity": {"inputs": {"source_sentence": "Paris", "sentences": ["France", "Mars"]}},
    "/decode": {"ids": [101, 102]},
    "/api/embed": {"model": "NAME", "input": [QUESTION]},
    "/api/embeddings": {"model": "NAME", "prompt": QUESTION},
    "/api/show": {"model": "NAME"},
    "/api/pull": {"model": "NAME"},
    "/v1/load_lora_adapter": {"lora_name": "mine", "lora_path": "/models/mine"},
    "/v1/unload_lora_adapter": {"lora_name": "mine"},
    "/v1/artifacts/load": {"path": "/models/mine"},
    "/v1/artifacts/unload": {"name": "mine"},
    "/v1/batches": {
        "input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h",
    },
}  # fmt: skip
"""Path -> a body. `NAME` stands for a served model; where `model` is left out, the first one answers."""


def group_of(path: str) -> str:
    for group, paths in GROUPS.items():
        if any(path == start or path.startswith(start + "/") for start in paths):
            return group
    return REST


def ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body with the fields in front that a reader looks for: the model, what it reads, what
    else is required."""
    if "properties" not in schema:
        return schema
    required = schema.get("required", [])
    names = list(schema["properties"])
    rank = {name: place for place, name in enumerate(FIRST)}
    names.sort(key=lambda name: (rank.get(name, len(FIRST)), name not in required))
    return schema | {"properties": {name: schema["properties"][name] for name in names}}
