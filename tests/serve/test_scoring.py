"""/score and /rerank beyond what the recorded answers cover."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live

QUERY, DOCUMENTS = (
    TEXTS[0],
    ["paris", "mars is known as the red planet", "paris", "the capital of france is paris"],
)
SCORERS = ("bert_cross_encoder", "minilm_like", "colbert")


@pytest.mark.parametrize("model", SCORERS)
def test_rerank_sorts_what_score_says(everything: Live, model):
    scores = [
        item["score"]
        for item in everything.ask("/score", {"model": model, "queries": QUERY, "documents": DOCUMENTS})[
            "data"
        ]
    ]
    answer = everything.ask("/rerank", {"model": model, "query": QUERY, "documents": DOCUMENTS})
    results = answer["results"]
    assert [one["relevance_score"] for one in results] == sorted(scores, reverse=True)
    assert [one["index"] for one in results] == np.argsort(-np.array(scores), kind="stable").tolist()
    assert [one["document"] for one in results] == [
        {"text": DOCUMENTS[one["index"]], "multi_modal": None} for one in results
    ]
    assert answer["id"].startswith("rerank-")
    assert list(answer) == ["id", "model", "usage", "results"]


@pytest.mark.parametrize("model", SCORERS)
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_top_n_keeps_the_best(everything: Live, model, path):
    best = everything.ask(path, {"model": model, "query": QUERY, "documents": DOCUMENTS, "top_n": 2})[
        "results"
    ]
    everyone = everything.ask(path, {"model": model, "query": QUERY, "documents": DOCUMENTS})["results"]
    assert [one["index"] for one in best] == [one["index"] for one in everyone][:2]


def test_the_model_decides_how_a_pair_is_scored(everything: Live):
    scores = {
        model: everything.ask("/score", {"model": model, "queries": QUERY, "documents": "paris"})["data"][0][
            "score"
        ]
        for model in SCORERS
    }
    served = {one.name: one.model for one in everything.here.registry}
    assert scores["bert_cross_encoder"] == pytest.approx(
        served["bert_cross_encoder"].score(QUERY, "paris")[0].outputs.score, abs=1e-5
    )
    left, right = np.asarray(served["minilm_like"].embed([QUERY, "paris"]))
    assert scores["minilm_like"] == pytest.approx(float(left @ right), abs=1e-5)
    # As vLLM computes it: no markers, no expansion.
    query, document = served["colbert"].token_embed([QUERY, "paris"]).arrays
    assert scores["colbert"] == pytest.approx(float((query @ document.T).max(axis=1).sum()), abs=1e-4)


def test_only_the_document_is_cut_when_asked(everything: Live):
    body = {
        "model": "bert_cross_encoder",
        "query": QUERY,
        "documents": ["planet " * 300, "paris"],
        "truncate_documents": True,
    }
    results = {one["index"]: one for one in everything.ask("/rerank", body)["results"]}
    assert (results[0]["truncated"], results[1]["truncated"]) == (True, False)
    plain = everything.ask(
        "/rerank", {"model": "bert_cross_encoder", "query": QUERY, "documents": ["paris"]}
    )["results"][0]
    assert "truncated" not in plain
    assert results[1]["relevance_score"] == pytest.approx(plain["relevance_score"], abs=1e-6)


def test_a_request_without_a_model_finds_one_that_can(everything: Live):
    assert everything.ask("/classify", {"input": "a"})["model"] in ("bert_cross_encoder", "bert_classifier")
    assert everything.ask("/v1/embeddings", {"input": "a"})["model"] == "bge_m3"


def test_a_model_that_cannot_is_told_who_can(everything: Live):
    error = everything.refused("/rerank", {"model": "bert_classifier", "query": "a", "documents": ["b"]})
    assert error["param"] == "model"
    assert "minilm_like" in error["message"]


@pytest.mark.parametrize("model", ["bert_classifier", "bert_tokens"])
def test_token_classes_come_per_token(everything: Live, model):
    rows = everything.ask("/pooling", {"model": model, "input": QUERY, "task": "token_classify"})["data"][0][
        "data"
    ]
    assert len(rows) == everything.ask("/tokenize", {"model": model, "prompt": QUERY})["count"]


def test_a_score_tells_which_documents_were_cut_when_asked(everything: Live):
    body = {
        "model": "bert_cross_encoder",
        "queries": QUERY,
        "documents": ["planet " * 300, "paris"],
        "truncate_documents": True,
    }
    data = everything.ask("/score", body)["data"]
    assert [one["truncated"] for one in data] == [True, False]
    assert (
        "truncated"
        not in everything.ask("/score", body | {"documents": "paris", "truncate_documents": False})["data"][0]
    )


@pytest.mark.parametrize("tokens", [True, False])
def test_sparse_weights_are_keyed_by_ids_or_pieces(everything: Live, tokens: bool):
    body = {
        "model": "bge_m3",
        "input": [QUERY, "paris"],
        "task": "token_classify",
        "encoding_format": "sparse",
        "return_tokens": tokens,
    }
    answer = everything.ask("/pooling", body)
    assert [(one["index"], one["object"], list(one)) for one in answer["data"]] == [
        (index, "pooling", ["index", "object", "data"]) for index in range(2)
    ]  # fmt: skip
    model = everything.here.registry.find("bge_m3").model
    ids = {
        int(token) for token in everything.ask("/pooling", body | {"return_tokens": False})["data"][1]["data"]
    }
    assert ids <= set(model.tokenize("paris", add_special_tokens=False))
    if tokens:
        assert set(answer["data"][1]["data"]) == set(model.preparation.encoder.pieces(sorted(ids)))
