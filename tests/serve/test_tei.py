"""The wire of text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from poolrt.runtime.model import Model

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live, live


def plain(server: Live, texts, **more):
    return np.array(
        [
            item["embedding"]
            for item in server.ask("/v1/embeddings", {"model": "minilm_like", "input": texts} | more)["data"]
        ]
    )


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
    other = plain(
        everything, text, truncate_prompt_tokens=-1, **({} if side else {"truncation_side": "left"})
    )
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
        right, left = (
            everything.ask(path, {"model": model, "truncation_direction": side} | body)
            for side in ("Right", "Left")
        )
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
        # FlagEmbedding's rule: the largest weight of a token counts, special tokens do not,
        # what is 0 is left out.
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
        for item in everything.ask(
            "/score", {"model": "bert_cross_encoder", "queries": TEXTS[0], "documents": TEXTS[1:]}
        )["data"]
    ]
    assert [one["score"] for one in ranked] == pytest.approx(sorted(scores, reverse=True))
    assert [one["text"] for one in ranked] == [TEXTS[1:][one["index"]] for one in ranked]
    assert "text" not in everything.ask("/rerank", body | {"return_text": False})[0]


@pytest.mark.parametrize(
    ("inputs", "shape"), [(TEXTS[0], (3,)), ([TEXTS[0]], (3,)), ([[text] for text in TEXTS], (3, 3))]
)
def test_predict_names_classes_best_first(everything: Live, inputs, shape):
    told = everything.ask("/predict", {"model": "bert_classifier", "inputs": inputs})
    assert np.shape(told) == shape
    first = told if isinstance(told[0], dict) else told[0]
    classes = everything.ask("/classify", {"model": "bert_classifier", "input": TEXTS[0]})["data"][0]
    assert first[0]["label"] == classes["label"]
    assert [one["score"] for one in first] == pytest.approx(sorted(classes["probs"], reverse=True))


def test_predict_scores_a_pair(everything: Live):
    told = everything.ask("/predict", {"model": "bert_cross_encoder", "inputs": TEXTS[:2]})
    score = everything.ask(
        "/score", {"model": "bert_cross_encoder", "queries": TEXTS[0], "documents": TEXTS[1]}
    )["data"][0]["score"]
    assert told[0]["score"] == pytest.approx(score, abs=1e-6)
    assert everything.post("/predict", {"model": "bert_classifier", "inputs": TEXTS[:2]}).status_code == 422


def test_similarity_is_cosine(everything: Live):
    found = everything.ask(
        "/similarity",
        {"model": "minilm_like", "inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}},
    )
    vectors = plain(everything, TEXTS)
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-5)


def test_tokens_have_places_in_the_text(everything: Live):
    tokens = everything.ask("/tokenize", {"model": "minilm_like", "inputs": TEXTS[0]})[0]
    assert [token["special"] for token in tokens] == [True, *[False] * 6, True]
    assert [TEXTS[0][token["start"] : token["stop"]] for token in tokens[1:-1]] == TEXTS[0].split()
    ids = [token["id"] for token in tokens]
    assert everything.ask("/decode", {"model": "minilm_like", "ids": ids}) == [TEXTS[0]]


def test_the_root_is_an_alias(everything: Live):
    np.testing.assert_allclose(
        everything.ask("/", {"model": "minilm_like", "inputs": TEXTS}), plain(everything, TEXTS), atol=1e-6
    )
    assert "score" in everything.ask("/", {"query": "a", "texts": ["b"]})[0]
    assert "label" in everything.ask("/", {"model": "bert_classifier", "inputs": "a"})[0]


def test_info_says_what_the_model_is(everything: Live):
    for model, kind in (
        ("minilm_like", "embedding"),
        ("bert_cross_encoder", "reranker"),
        ("bert_classifier", "classifier"),
    ):
        told = everything.client.get("/info", params={"model": model}).json()
        assert list(told["model_type"]) == [kind]
        assert told["max_input_length"] > 0


@pytest.mark.parametrize(
    "body", [{}, {"inputs": 5}, {"inputs": []}, {"inputs": "a", "model": "nobody"}, {"inputs": [[]]}]
)
def test_errors_are_flat(everything: Live, body):
    got = everything.post("/embed", body)
    assert got.status_code in (404, 422)
    assert isinstance(got.json()["error"], str)


@pytest.fixture(scope="module")
def reranker(models: Callable[[str], Model]) -> Iterator[Live]:
    """One whose scores go through a sigmoid."""
    with live(models("xlmr_reranker")) as server:
        yield server


def test_raw_scores_of_a_rerank_are_before_the_sigmoid(reranker: Live):
    body = {"query": TEXTS[0], "texts": [*TEXTS[1:], TEXTS[1], ""]}
    scores, raw = (reranker.ask("/rerank", body | {"raw_scores": flag}) for flag in (False, True))
    assert [one["index"] for one in scores] == [one["index"] for one in raw]
    logits = np.array([one["score"] for one in raw])
    np.testing.assert_allclose([one["score"] for one in scores], 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert list(scores[0]) == ["index", "score"]
    # Equal texts have equal scores, which keep their order.
    order = [one["index"] for one in scores]
    assert order.index(2) == order.index(0) + 1


def test_a_rerank_cuts_unless_told_otherwise(everything: Live):
    body = {"model": "bert_cross_encoder", "query": "a", "texts": ["planet " * 300]}
    assert len(everything.ask("/rerank", body)) == 1
    assert everything.post("/rerank", body | {"truncate": False}).status_code == 422


def labels(told):
    return {one["label"]: one["score"] for one in told}


def test_raw_scores_of_classes_are_before_the_softmax(everything: Live):
    body = {"model": "bert_classifier", "inputs": TEXTS[0]}
    probs, logits = (
        labels(everything.ask("/predict", body)),
        labels(everything.ask("/predict", body | {"raw_scores": True})),
    )
    values = np.exp([logits[label] for label in probs])
    np.testing.assert_allclose(list(probs.values()), values / values.sum(), atol=1e-6)


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none", None])
def test_the_hubs_clients_choose_the_function_and_the_number_of_classes(everything: Live, function):
    body = {"model": "bert_classifier", "inputs": TEXTS[0]}
    logits = labels(everything.ask("/predict", body | {"raw_scores": True}))
    values = np.array(list(logits.values()))
    expected = {
        "sigmoid": 1 / (1 + np.exp(-values)), "none": values,
        "softmax": np.exp(values) / np.exp(values).sum(),
    }  # fmt: skip
    told = everything.ask("/predict", body | {"parameters": {"function_to_apply": function}})
    assert len(told) == 1, "a list for the one text"
    found = labels(told[0])
    np.testing.assert_allclose([found[label] for label in logits], expected[function or "softmax"], atol=1e-6)
    assert everything.ask("/predict", body | {"parameters": {"function_to_apply": function, "top_k": 2}}) == [
        told[0][:2]
    ]
    both = everything.ask("/predict", body | {"inputs": [[TEXTS[0]], [TEXTS[1]]], "parameters": {"top_k": 1}})
    assert [len(each) for each in both] == [1, 1]
    assert everything.post("/predict", body | {"parameters": {"top_k": 0}}).status_code == 422


@pytest.mark.parametrize(
    "inputs", [[], ["a", "b", "c"], [["a"], ["b", "c"]], [[]], [["a", "b", "c"]]], ids=str
)
def test_predict_refuses_what_is_neither_texts_nor_pairs(everything: Live, inputs):
    got = everything.post("/predict", {"model": "bert_cross_encoder", "inputs": inputs})
    assert got.status_code == 422
    assert got.json()["error_type"] == "Validation"


def test_predict_scores_pairs_in_their_order(everything: Live):
    pairs = [[TEXTS[0], TEXTS[1]], [TEXTS[0], TEXTS[2]], [TEXTS[2], TEXTS[0]]]
    told = everything.ask("/predict", {"model": "bert_cross_encoder", "inputs": pairs})
    body = {
        "model": "bert_cross_encoder",
        "queries": [one for one, _ in pairs],
        "documents": [other for _, other in pairs],
    }
    scores = [item["score"] for item in everything.ask("/score", body)["data"]]
    assert [each[0]["score"] for each in told] == pytest.approx(scores, abs=1e-6)


def test_raw_scores_of_pairs_are_before_the_sigmoid(reranker: Live):
    body = {"inputs": [[TEXTS[0], TEXTS[1]], [TEXTS[0], TEXTS[2]]]}
    scores, raw = (
        np.array([each[0]["score"] for each in reranker.ask("/predict", body | {"raw_scores": flag})])
        for flag in (False, True)
    )
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), scores, atol=1e-6)


def test_classes_are_named_best_first_and_by_number_where_they_have_no_name():
    from poolrt.serve.endpoints.tei import named

    told = named(np.array([0.1, 0.4, 0.1, 0.4], np.float32), ("a", "b"))
    assert [one["label"] for one in told] == ["b", "LABEL_3", "a", "LABEL_2"]
    assert [one["score"] for one in told] == pytest.approx([0.4, 0.4, 0.1, 0.1])


def test_sentences_are_cut_as_their_parameters_say(everything: Live):
    body = {"source_sentence": "mars " * 150 + "venus " * 150, "sentences": ["venus", "mars"]}

    def similarity(**parameters):
        return everything.ask(
            "/similarity", {"model": "minilm_like", "inputs": body, "parameters": parameters}
        )

    right, left = similarity(), similarity(truncation_direction="left")
    assert np.abs(np.array(right) - left).max() > 0.01
    assert (
        everything.post(
            "/similarity", {"model": "minilm_like", "inputs": body, "parameters": {"truncate": False}}
        ).status_code
        == 422
    )
    np.testing.assert_allclose(
        everything.ask("/", {"model": "minilm_like", "inputs": body}), right, atol=1e-6
    )
    unknown = {"model": "minilm_like", "inputs": body, "parameters": {"prompt_name": "nobody"}}
    assert everything.post("/similarity", unknown).status_code in (400, 422)


def test_tokens_without_special_ones_and_of_many_texts(everything: Live):
    body = {"model": "minilm_like", "inputs": ["paris", "the moon"], "add_special_tokens": False}
    first, second = everything.ask("/tokenize", body)
    assert [token["text"] for token in first] == ["paris"]
    assert [(token["text"], token["start"], token["stop"]) for token in second] == [
        ("the", 0, 3),
        ("moon", 4, 8),
    ]
    assert [token["special"] for token in second] == [False, False]
    (whole,) = everything.ask("/tokenize", {"model": "minilm_like", "inputs": "paris"})
    assert [token["text"] for token in whole] == ["[CLS]", "paris", "[SEP]"]
    assert "start" not in whole[0]
    assert whole[1]["id"] == first[0]["id"]
    assert everything.post("/tokenize", body | {"prompt_name": "nobody"}).status_code in (400, 422)


def test_decoding_keeps_special_tokens_on_request(everything: Live):
    ids = everything.ask("/tokenize", {"model": "minilm_like", "prompt": "paris"})["tokens"]
    body = {"model": "minilm_like", "ids": ids}
    assert everything.ask("/decode", body) == ["paris"]
    assert everything.ask("/decode", body | {"skip_special_tokens": False}) == ["[CLS] paris [SEP]"]
    assert everything.ask("/decode", body | {"ids": [ids[1:2], ids]}) == ["paris", "paris"]
    for wrong in ([-1], [[5], [2**32]]):
        assert everything.post("/decode", body | {"ids": wrong}).status_code == 422
    assert everything.post("/decode", body | {"ids": [2**32 - 1]}).status_code == 200


def test_info_tells_what_the_manifest_holds(everything: Live):
    for served in everything.here.registry:
        told = everything.client.get("/info", params={"model": served.name}).json()
        head = served.manifest.heads[served.manifest.tasks[0]]
        assert told["model_dtype"] == "float32"
        assert (told["model_id"], told["model_sha"]) == (
            served.manifest.source.checkpoint,
            served.manifest.source.revision,
        )
        assert (told["served_model_name"], told["max_input_length"]) == (served.name, served.model.max_tokens)
        assert told["auto_truncate"] is True
        settings = everything.here.settings
        assert (told["max_concurrent_requests"], told["max_client_batch_size"]) == (
            settings.max_connections,
            settings.max_items,
        )
        assert (told["tokenization_workers"], told["max_batch_tokens"]) == (
            settings.threads,
            served.model.worker.limits.max_tokens,
        )
        assert told["version"] == everything.client.get("/version").json()["version"]
        assert told["max_batch_requests"] is told["sha"] is told["docker_label"] is None
        assert told["scoring"] == served.manifest.scoring
        assert (told["tasks"], told["engine"]) == (list(served.manifest.tasks), served.model.engine.name)
        kind = told["model_type"]
        if "embedding" in kind:
            assert kind["embedding"] == {"pooling": head.pool}
        else:
            (names,) = kind.values()
            assert names["id2label"] == {str(index): label for index, label in enumerate(head.labels)}
            assert names["label2id"] == {label: index for index, label in enumerate(head.labels)}
    assert everything.client.get("/info", params={"model": "nobody"}).status_code == 404


@pytest.mark.parametrize(
    ("status", "wire", "kind"),
    [
        (400, 422, "Validation"), (404, 404, "Validation"), (413, 413, "Validation"),
        (422, 422, "Validation"), (429, 429, "Overloaded"),
        (500, 424, "Backend"), (503, 503, "Unhealthy"), (504, 424, "Backend"),
    ],
)  # fmt: skip
def test_errors_have_teis_status_and_class(status, wire, kind):
    import json

    from poolrt.serve.errors import ApiError, tei_response

    got = tei_response(ApiError(status, "no /tmp/x.py", param="inputs", headers={"Retry-After": "7"}))
    assert got.status_code == wire
    told = json.loads(bytes(got.body))
    assert {key: told[key] for key in ("error", "error_type", "param", "code")} == {
        "error": "no <path>",
        "error_type": kind,
        "param": "inputs",
        "code": wire,
    }
    assert (told["object"], told["message"]) == ("error", "no <path>")
    assert got.headers["retry-after"] == "7"


def test_routes_of_no_model_that_is_served_do_not_exist(embedder: Live):
    for path in ("/embed_sparse", "/predict"):
        assert embedder.post(path, {"inputs": "a"}).status_code == 404
    assert embedder.post("/embed_all", {"inputs": "a"}).status_code == 200
