"""The wire of text-embeddings-inference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live


def plain(server: Live, texts, **more):
    return np.array([item["embedding"] for item in server.ask("/v1/embeddings", {"model": "minilm_like", "input": texts} | more)["data"]])


def test_embed_is_a_list_of_vectors(everything: Live):
    body = {"model": "minilm_like", "inputs": TEXTS}
    np.testing.assert_allclose(everything.ask("/embed", body), plain(everything, TEXTS), atol=1e-6)
    one = everything.ask("/embed", body | {"inputs": TEXTS[0]})
    assert np.shape(one) == (1, 64)
    raw = np.array(everything.ask("/embed", body | {"normalize": False}))
    np.testing.assert_allclose(raw, plain(everything, TEXTS, use_activation=False), rtol=1e-5)


def test_long_inputs_are_cut_unless_told_otherwise(everything: Live):
    body = {"model": "minilm_like", "inputs": "planet " * 300}
    cut = plain(everything, "planet " * 300, truncate_prompt_tokens=-1)
    np.testing.assert_allclose(everything.ask("/embed", body), cut, atol=1e-6)
    refused = everything.post("/embed", body | {"truncate": False})
    assert refused.status_code == 422
    assert refused.json()["error_type"] == "Validation"


@pytest.mark.parametrize("direction", ["Left", "left", "Right", "right"])
def test_long_inputs_lose_the_end_that_is_named(everything: Live, direction):
    text = "mars " * 150 + "venus " * 150
    body = {"model": "minilm_like", "inputs": text, "truncation_direction": direction}
    side = {"truncation_side": "left"} if direction.lower() == "left" else {}
    cut = plain(everything, text, truncate_prompt_tokens=-1, **side)
    other = plain(everything, text, truncate_prompt_tokens=-1, **({} if side else {"truncation_side": "left"}))
    assert np.abs(cut - other).max() > 0.01
    np.testing.assert_allclose(everything.ask("/embed", body), cut, atol=1e-6)
    assert everything.post("/embed", body | {"truncation_direction": "Up"}).status_code == 422


def test_the_other_routes_cut_where_they_are_told_too(everything: Live):
    text = "mars " * 150 + "venus " * 150
    for path, model, body in (
        ("/embed_all", "minilm_like", {"inputs": text}),
        ("/embed_sparse", "bge_m3", {"inputs": text}),
        ("/predict", "bert_classifier", {"inputs": text}),
    ):
        right, left = (everything.ask(path, {"model": model, "truncation_direction": side} | body) for side in ("Right", "Left"))
        assert right == everything.ask(path, {"model": model} | body)
        assert right != left, path
        assert everything.post(path, {"model": model, "truncate": False} | body).status_code == 422, path


def test_sparse_weights_are_the_largest_of_each_word_and_of_no_special_token(everything: Live):
    text = "mars is the planet </s> mars <s> the mars"
    served = everything.here.registry.find("bge_m3").model
    told = everything.ask("/embed_sparse", {"model": "bge_m3", "inputs": [text, "paris"]})
    for each, words in zip(told, (text, "paris"), strict=True):
        request = served.encode(words, pooling_task="token_classify").requests[0]
        ids = [0, *request.prompt_token_ids[1:-1], 2]
        rows = dict.fromkeys(set(ids) - {0, 2}, 0.0)
        # FlagEmbedding's rule: the largest weight of a token counts, special tokens do not, what is 0 is left out.
        for token, weight in zip(ids[1:-1], request.outputs.data.ravel().tolist(), strict=True):
            if token in rows:
                rows[token] = max(rows[token], weight)
        expected = {token: weight for token, weight in rows.items() if weight > 0}
        assert {pair["index"]: pair["value"] for pair in each} == pytest.approx(expected, abs=1e-6)
        assert len({pair["index"] for pair in each}) == len(each)
    assert 1 < len(told[0]) < 9


def test_embed_all_has_a_row_per_token(everything: Live):
    rows = everything.ask("/embed_all", {"model": "minilm_like", "inputs": TEXTS[:1]})
    assert np.shape(rows) == (1, 8, 64)


def test_rerank_by_texts_sorts(everything: Live):
    body = {"model": "bert_cross_encoder", "query": TEXTS[0], "texts": TEXTS[1:], "return_text": True}
    ranked = everything.ask("/rerank", body)
    scores = [
        item["score"]
        for item in everything.ask("/score", {"model": "bert_cross_encoder", "queries": TEXTS[0], "documents": TEXTS[1:]})["data"]
    ]
    assert [one["score"] for one in ranked] == pytest.approx(sorted(scores, reverse=True))
    assert [one["text"] for one in ranked] == [TEXTS[1:][one["index"]] for one in ranked]
    assert "text" not in everything.ask("/rerank", body | {"return_text": False})[0]


@pytest.mark.parametrize(("inputs", "shape"), [(TEXTS[0], (3,)), ([TEXTS[0]], (3,)), ([[text] for text in TEXTS], (3, 3))])
def test_predict_names_classes_best_first(everything: Live, inputs, shape):
    told = everything.ask("/predict", {"model": "bert_classifier", "inputs": inputs})
    assert np.shape(told) == shape
    first = told if isinstance(told[0], dict) else told[0]
    classes = everything.ask("/classify", {"model": "bert_classifier", "input": TEXTS[0]})["data"][0]
    assert first[0]["label"] == classes["label"]
    assert [one["score"] for one in first] == pytest.approx(sorted(classes["probs"], reverse=True))


def test_predict_scores_a_pair(everything: Live):
    told = everything.ask("/predict", {"model": "bert_cross_encoder", "inputs": TEXTS[:2]})
    score = everything.ask("/score", {"model": "bert_cross_encoder", "queries": TEXTS[0], "documents": TEXTS[1]})["data"][0]["score"]
    assert told[0]["score"] == pytest.approx(score, abs=1e-6)
    assert everything.post("/predict", {"model": "bert_classifier", "inputs": TEXTS[:2]}).status_code == 422


def test_similarity_is_cosine(everything: Live):
    found = everything.ask("/similarity", {"model": "minilm_like", "inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}})
    vectors = plain(everything, TEXTS)
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-5)


def test_tokens_have_places_in_the_text(everything: Live):
    tokens = everything.ask("/tokenize", {"model": "minilm_like", "inputs": TEXTS[0]})[0]
    assert [token["special"] for token in tokens] == [True, *[False] * 6, True]
    assert [TEXTS[0][token["start"] : token["stop"]] for token in tokens[1:-1]] == TEXTS[0].split()
    ids = [token["id"] for token in tokens]
    assert everything.ask("/decode", {"model": "minilm_like", "ids": ids}) == [TEXTS[0]]


def test_the_root_is_an_alias(everything: Live):
    np.testing.assert_allclose(everything.ask("/", {"model": "minilm_like", "inputs": TEXTS}), plain(everything, TEXTS), atol=1e-6)
    assert "score" in everything.ask("/", {"query": "a", "texts": ["b"]})[0]
    assert "label" in everything.ask("/", {"model": "bert_classifier", "inputs": "a"})[0]


def test_info_says_what_the_model_is(everything: Live):
    for model, kind in (("minilm_like", "embedding"), ("bert_cross_encoder", "reranker"), ("bert_classifier", "classifier")):
        told = everything.client.get("/info", params={"model": model}).json()
        assert list(told["model_type"]) == [kind]
        assert told["max_input_length"] > 0


@pytest.mark.parametrize("body", [{}, {"inputs": 5}, {"inputs": []}, {"inputs": "a", "model": "nobody"}, {"inputs": [[]]}])
def test_errors_are_flat(everything: Live, body):
    got = everything.post("/embed", body)
    assert got.status_code in (404, 422)
    assert isinstance(got.json()["error"], str)
