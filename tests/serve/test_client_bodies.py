"""The bodies that client libraries and applications post, as they post them. Their numbers are
those of the plain forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from poolrt.serve.pages.openapi import ANSWERS

from tests.serve.cases import LONG, TEXTS
from tests.serve.conftest import Live

QUERY, DOCUMENTS = TEXTS[0], ["paris", "mars is known as the red planet", "the capital of france is paris"]
RERANKS = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORERS = ("bert_cross_encoder", "minilm_like", "colbert")


def close(answer: Any, expected: Any) -> None:
    """The same order, the same scores to what a batch of another make-up changes."""
    assert [index for index, _ in scores(answer)] == [index for index, _ in scores(expected)]
    np.testing.assert_allclose(
        [score for _, score in scores(answer)], [score for _, score in scores(expected)], atol=1e-5
    )


def scores(answer: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


OBJECTS = [{"text": text} for text in DOCUMENTS]
# client -> what it posts beside model and query
BODIES: dict[str, dict[str, Any]] = {
    "dify": {"documents": DOCUMENTS, "top_n": None},
    "litellm": {
        "documents": OBJECTS,
        "top_n": None,
        "rank_fields": None,
        "return_documents": True,
        "max_chunks_per_doc": None,
    },
    "cohere-v1": {"documents": OBJECTS, "return_documents": True, "max_chunks_per_doc": 10},
    "jina": {"documents": [OBJECTS[0], *DOCUMENTS[1:]], "top_n": 3},
    "haystack": {"documents": DOCUMENTS, "top_n": 10, "max_tokens_per_doc": 4096},
    "one-object": {"documents": OBJECTS[0]},
}


@pytest.mark.parametrize("model", SCORERS)
@pytest.mark.parametrize("path", RERANKS)
@pytest.mark.parametrize("client", BODIES)
def test_rerank_takes_what_clients_send(everything: Live, client: str, path: str, model: str):
    body = BODIES[client]
    plain = DOCUMENTS[:1] if isinstance(body["documents"], dict) else DOCUMENTS
    expected = everything.ask("/rerank", {"model": model, "query": QUERY, "documents": plain})
    answer = everything.ask(path, {"model": model, "query": QUERY} | body)
    close(answer, expected)
    assert [one["document"] for one in answer["results"]] == [
        {"text": plain[one["index"]], "multi_modal": None} for one in answer["results"]
    ]


@pytest.mark.parametrize("path", RERANKS)
def test_a_query_may_be_an_object(everything: Live, path: str):
    asked = {"model": "bert_cross_encoder", "documents": DOCUMENTS}
    assert scores(everything.ask(path, asked | {"query": {"text": QUERY}})) == scores(
        everything.ask(path, asked | {"query": QUERY})
    )


@pytest.mark.parametrize("path", RERANKS)
def test_results_come_without_documents_when_asked(everything: Live, path: str):
    asked = {"model": "bert_cross_encoder", "query": QUERY, "documents": DOCUMENTS}
    bare = everything.ask(path, asked | {"return_documents": False})["results"]
    assert [list(one) for one in bare] == [["index", "relevance_score"]] * 3
    schema = ANSWERS["RerankAnswer"]["properties"]["results"]["items"]
    assert set(schema["required"]) <= set(bare[0]) <= set(schema["properties"]), "as the document says"
    assert all(
        "document" in one for one in everything.ask(path, asked | {"return_documents": None})["results"]
    )


@pytest.mark.parametrize(
    ("more", "count"),
    [({"top_k": 2}, 2), ({"top_k": None}, 3), ({"top_k": 1, "top_n": 2}, 2), ({"top_k": 0}, 3)],
)
def test_top_k_is_another_name_of_top_n(everything: Live, more: dict[str, Any], count: int):
    asked = {"model": "bert_cross_encoder", "query": QUERY, "documents": DOCUMENTS}
    assert scores(everything.ask("/rerank", asked | more)) == scores(everything.ask("/rerank", asked))[:count]
    everything.refused("/rerank", asked | {"top_k": -1})


@pytest.mark.parametrize("model", SCORERS)
def test_a_limit_beyond_the_models_own_is_its_own(everything: Live, model: str):
    """Haystack's 4096 tokens for a document: what is longer than the model reads is
    cut, nothing is refused."""
    documents = [LONG, "paris"]
    asked = {"model": model, "query": QUERY, "documents": documents}
    everything.refused("/rerank", asked)
    most = everything.here.registry.find(model).model.max_tokens
    for beyond in (most, 4096):
        answer = everything.ask(
            "/rerank", asked | {"max_tokens_per_doc": beyond, "max_tokens_per_query": beyond}
        )
        cut = everything.ask("/rerank", asked | {"truncate_documents": True})
        close(answer, cut)


def test_a_score_keeps_vllms_refusal_of_such_a_limit(everything: Live):
    asked = {
        "model": "bert_cross_encoder",
        "queries": QUERY,
        "documents": DOCUMENTS,
        "max_tokens_per_doc": 4096,
    }
    assert "must be less than max_model_len" in everything.refused("/score", asked)["message"]


def embedding(server: Live, path: str, **more: Any) -> np.ndarray[Any, Any]:
    return np.array(server.ask(path, {"model": "minilm_like", "input": QUERY} | more)["data"][0]["embedding"])


def test_embeddings_are_also_at_the_root(everything: Live):
    plain = embedding(everything, "/v1/embeddings")
    np.testing.assert_array_equal(embedding(everything, "/embeddings"), plain)
    np.testing.assert_array_equal(
        embedding(everything, "/v1/embeddings", encoding_format=None, dimensions=None, user=None), plain
    )
    names = [
        [one["id"] for one in everything.client.get(path).json()["data"]]
        for path in ("/models", "/v1/models")
    ]
    assert names[0] == names[1]


def test_the_native_width_may_be_asked_for(everything: Live):
    plain = embedding(everything, "/v1/embeddings")
    np.testing.assert_array_equal(embedding(everything, "/v1/embeddings", dimensions=len(plain)), plain)
    for path, body in (
        ("/v2/embed", {"texts": [QUERY], "output_dimension": 64}),
        ("/embed", {"inputs": QUERY, "dimensions": 64}),
    ):
        everything.ask(path, {"model": "minilm_like"} | body)
    for width in (0, -1, 32, 65):
        told = everything.refused(
            "/v1/embeddings", {"model": "minilm_like", "input": QUERY, "dimensions": width}
        )["message"]
        assert "does not support matryoshka" in told


@pytest.mark.parametrize("input_type", ["search_document", "search_query", "classification", "clustering"])
def test_coheres_own_input_types_add_nothing_to_a_model_without_prompts(everything: Live, input_type: str):
    asked = {"model": "minilm_like", "texts": TEXTS}
    assert not everything.here.registry.find("minilm_like").manifest.text.prompts
    typed, plain = (
        everything.ask("/v2/embed", asked | more)["embeddings"] for more in ({"input_type": input_type}, {})
    )
    assert typed == plain


def test_another_input_type_is_still_refused(everything: Live):
    told = everything.refused("/v2/embed", {"model": "minilm_like", "texts": TEXTS, "input_type": "poem"})[
        "message"
    ]
    assert "Unsupported input_type 'poem'" in told


PARTS = {"content": [{"type": "text", "text": "paris is the"}, {"type": "text", "text": "capital of france"}]}
JOINED = "paris is the\ncapital of france"  # as vLLM joins the text parts of a multimodal reranker's item


@pytest.mark.parametrize("model", SCORERS)
def test_a_list_of_text_parts_is_a_text(everything: Live, model: str):
    def score(first: Any, second: Any) -> list[float]:
        return [
            one["score"]
            for one in everything.ask("/score", {"model": model, "data_1": first, "data_2": second})["data"]
        ]

    assert score(QUERY, PARTS) == score(QUERY, JOINED)
    assert score(PARTS, [PARTS, "mars"]) == score(JOINED, [JOINED, "mars"])
    plain = everything.ask("/rerank", {"model": model, "query": JOINED, "documents": ["mars", JOINED]})
    ranked = everything.ask("/rerank", {"model": model, "query": PARTS, "documents": ["mars", PARTS]})
    assert scores(ranked) == scores(plain)
    shown = {one["index"]: one["document"] for one in ranked["results"]}
    assert shown == {
        0: {"text": "mars", "multi_modal": None},
        1: {"text": None, "multi_modal": PARTS["content"]},
    }


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, {"type": "image_embeds"}],
)
def test_parts_that_are_no_text_are_refused_by_name(everything: Live, part: dict[str, Any]):
    asked = {
        "model": "bert_cross_encoder",
        "query": QUERY,
        "documents": [{"content": [PARTS["content"][0], part]}],
    }
    told = everything.refused("/rerank", asked)["message"]
    assert told.startswith("MultiModalParam is not supported for Bert")
    assert part["type"] in told


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/pooling", "/v2/embed", "/score", "/rerank", "/classify"]
)
def test_a_priority_without_its_scheduling_is_refused(everything: Live, path: str):
    bodies = {
        "/v2/embed": {"texts": TEXTS},
        "/score": {"text_1": QUERY, "text_2": DOCUMENTS},
        "/rerank": {"query": QUERY, "documents": DOCUMENTS},
    }
    body = bodies.get(path, {"input": QUERY})
    everything.ask(path, body | {"priority": 0})
    for priority in (1, -1):
        told = everything.refused(path, body | {"priority": priority})["message"]
        assert f"priority {priority}" in told
        assert "--scheduling-policy priority" in told
