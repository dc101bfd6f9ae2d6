"""A null for a field that may be left out is that field left out: clients write every argument that
their caller did not give."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from poolrt.serve.endpoints.routes import ROUTES as TABLE
from poolrt.serve.schema import ollama, tei, vllm
from poolrt.serve.schema.body import Body
from poolrt.serve.settings import Settings

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live

QUERY, DOCUMENTS = TEXTS[0], TEXTS[1:]
EMBEDDER, RERANKER, CLASSIFIER, SPARSE = "minilm_like", "bert_cross_encoder", "bert_classifier", "bge_m3"
INPUT, RANKING = {"input": TEXTS}, {"query": QUERY, "documents": DOCUMENTS}
SCORES = [{"queries": QUERY, "documents": DOCUMENTS}, {"queries": QUERY, "items": DOCUMENTS},
    {"data_1": QUERY, "data_2": DOCUMENTS},
          {"text_1": QUERY, "text_2": DOCUMENTS}]  # fmt: skip
TEI_RANKING = {"query": QUERY, "texts": DOCUMENTS}

# route -> the model that answers it, its body's forms, the least that it takes
ROUTES: dict[str, tuple[str, Body, list[dict[str, Any]]]] = {
    "/v1/embeddings": (EMBEDDER, vllm.EMBEDDINGS, [INPUT]),
    "/embeddings": (EMBEDDER, vllm.EMBEDDINGS, [INPUT]),
    "/rerank": (RERANKER, vllm.RERANK, [RANKING]),
    "/v1/rerank": (RERANKER, vllm.RERANK, [RANKING]),
    "/v2/rerank": (RERANKER, vllm.RERANK, [RANKING]),
    "/score": (RERANKER, vllm.SCORE, SCORES),
    "/v1/score": (RERANKER, vllm.SCORE, SCORES),
    "/pooling": (EMBEDDER, vllm.POOLING, [INPUT]),
    "/classify": (CLASSIFIER, vllm.CLASSIFY, [INPUT]),
    "/v2/embed": (EMBEDDER, vllm.COHERE, [{"texts": TEXTS}]),
    "/v1/embed": (EMBEDDER, vllm.COHERE_V1, [{"texts": TEXTS}]),
    "/tokenize": (EMBEDDER, vllm.TOKENIZE, [{"prompt": QUERY}]),
    "/detokenize": (EMBEDDER, vllm.DETOKENIZE, [{"tokens": [7, 8]}]),
    "/v1/tokenize": (EMBEDDER, vllm.COHERE_TOKENIZE, [{"text": QUERY}]),
    "/v1/detokenize": (EMBEDDER, vllm.DETOKENIZE, [{"tokens": [7, 8]}]),
    "/invocations": (EMBEDDER, vllm.EMBEDDINGS, [INPUT]),
    "/embed": (EMBEDDER, tei.EMBED, [{"inputs": TEXTS}]),
    "/embed_all": (EMBEDDER, tei.EMBED, [{"inputs": TEXTS}]),
    "/embed_sparse": (SPARSE, tei.EMBED, [{"inputs": TEXTS}]),
    "/predict": (CLASSIFIER, tei.PREDICT, [{"inputs": QUERY}]),
    "/similarity": (
        EMBEDDER,
        tei.SIMILARITY,
        [{"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}}],
    ),
    "/decode": (EMBEDDER, tei.DECODE, [{"ids": [7, 8]}]),
    "/api/embed": (EMBEDDER, ollama.EMBED, [{"input": TEXTS}]),
    "/api/embeddings": (EMBEDDER, ollama.EMBEDDING, [{"prompt": QUERY}]),
    "/api/show": (EMBEDDER, ollama.MODEL, [{}]),
    "/api/pull": (EMBEDDER, ollama.MODEL, [{}]),
}
MORE = [
    (RERANKER, "/rerank", tei.RERANK, TEI_RANKING),
    (EMBEDDER, "/tokenize", tei.TOKENIZE, {"inputs": QUERY}),
    (EMBEDDER, "/", tei.EMBED, {"inputs": TEXTS}),
]
"""Second forms of some routes: TEI's."""
CASES = [
    (model, path, body, least) for path, (model, body, bodies) in ROUTES.items() for least in bodies
] + MORE
IDS = [f"{path}-{'-'.join(least)}" for _, path, _, least in CASES]


def optional(body: Body, least: dict[str, Any]) -> list[str]:
    """Every field of any of the body's forms that the least body does without."""
    return sorted(
        {field.name for _, form in body.forms for field in dataclasses.fields(form)} - set(least) - {"model"}
    )


def test_every_route_that_reads_a_body_is_here():
    assert set(ROUTES) == {
        route.path for route in TABLE if route.methods == ("POST",) and route.is_on(Settings())
    }


@pytest.mark.parametrize(("model", "path", "body", "least"), CASES, ids=IDS)
def test_a_null_is_read_as_nothing(model: str, path: str, body: Body, least: dict[str, Any]):
    for field in optional(body, least):
        assert body.read(least | {field: None}) == body.read(least), field


@pytest.mark.parametrize(("model", "path", "body", "least"), CASES, ids=IDS)
def test_nulls_change_no_answer(everything: Live, model: str, path: str, body: Body, least: dict[str, Any]):
    fields = optional(body, least)
    asked = least | {"model": model}
    plain, with_nulls = (
        without_moment(everything.ask(path, one)) for one in (asked, asked | dict.fromkeys(fields))
    )
    assert with_nulls == plain


def without_moment(answer: Any) -> Any:
    return (
        {key: value for key, value in answer.items() if key not in ("id", "created", "total_duration")}
        if isinstance(answer, dict)
        else answer
    )


@pytest.mark.parametrize(
    "nested", [{"parameters": {"truncate": None, "truncation_direction": None, "prompt_name": None}}]
)
def test_a_null_inside_an_object_is_nothing_too(everything: Live, nested: dict[str, Any]):
    asked = {"model": EMBEDDER, "inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}}
    assert everything.ask("/similarity", asked | nested) == everything.ask("/similarity", asked)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": None}),
        ("/v1/embeddings", {"input": [None]}),
        ("/rerank", {"query": None, "documents": DOCUMENTS}),
        ("/score", {"queries": QUERY, "documents": None}),
        ("/tokenize", {"prompt": None}),
        ("/v2/embed", {"texts": None}),
    ],
)
def test_a_null_for_what_is_needed_is_refused(everything: Live, path: str, body: dict[str, Any]):
    everything.refused(path, body)
