"""/v1/embeddings, /v2/embed and /pooling beyond what the recorded answers cover."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from poolrt.runtime.model import Model
from poolrt.serve.settings import Settings

from tests.serve.cases import CHAT, TEXT, TEXTS
from tests.serve.conftest import Live, live

FP8 = 0.05  # e5m2 has two bits of mantissa: an eighth of the value at worst, values are below 0.4
KINDS = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if "
    "add_generation_prompt %}bot:{% endif %}"
)


def vectors(answer):
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


@pytest.mark.parametrize("order", ["native", "big", "little"])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("encoding", ["base64", "bytes", "bytes_only"])
def test_every_encoding_decodes_to_the_same_vectors(embedder: Live, encoding, dtype, order):
    plain = vectors(embedder.ask("/v1/embeddings", {"input": TEXTS}))
    body = {"input": TEXTS, "encoding_format": encoding, "embed_dtype": dtype, "endianness": order}
    got = embedder.post("/v1/embeddings", body)
    kind = np.dtype(KINDS[dtype])
    if encoding == "base64":
        raw = b"".join(base64.b64decode(item["embedding"]) for item in got.json()["data"])
    else:
        assert got.headers["content-type"] == "application/octet-stream"
        raw = got.content
        assert ("metadata" in got.headers) == (encoding == "bytes")
        if encoding == "bytes":
            told = json.loads(got.headers["metadata"])
            assert [one["end"] - one["start"] for one in told["data"]] == [64 * kind.itemsize] * len(TEXTS)
            assert told["data"][-1]["end"] == len(raw)
            assert {one["endianness"] for one in told["data"]} == {order}
    array = np.frombuffer(raw, np.uint8).reshape(-1, kind.itemsize)
    if order not in ("native", sys.byteorder):
        array = array[:, ::-1]
    read = np.ascontiguousarray(array).view(kind).astype(np.float32).reshape(plain.shape)
    np.testing.assert_allclose(read, plain, atol=1e-6 if dtype == "float32" else FP8)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_integers_come_as_lists(embedder: Live, dtype):
    plain = vectors(embedder.ask("/v1/embeddings", {"input": TEXTS}))
    data = embedder.ask("/v1/embeddings", {"input": TEXTS, "embed_dtype": dtype})["data"]
    found = np.array([item["embedding"] for item in data])
    assert all(isinstance(value, int) for item in data for value in item["embedding"])
    if dtype in ("int8", "uint8"):
        centred = found - (128 if dtype == "uint8" else 0)
        cosine = (centred * plain).sum(1) / np.linalg.norm(centred, axis=1)
        assert cosine.min() > 0.9999
    else:
        bits = np.unpackbits((found + (128 if dtype == "binary" else 0)).astype(np.uint8), axis=1)
        np.testing.assert_array_equal(bits, plain >= 0)


def test_the_index_is_the_place_in_the_request(embedder: Live):
    answer = embedder.ask("/v1/embeddings", {"input": [*TEXTS, "a", "planet " * 40]})
    assert [item["index"] for item in answer["data"]] == list(range(5))
    alone = vectors(embedder.ask("/v1/embeddings", {"input": TEXTS[1]}))
    np.testing.assert_allclose(vectors(answer)[1], alone[0], atol=1e-6)


def test_an_id_comes_from_the_header_then_the_body(embedder: Live):
    body = {"input": "a", "request_id": "mine"}
    assert embedder.ask("/v1/embeddings", body)["id"] == "embd-mine"
    assert embedder.ask("/v1/embeddings", body, headers={"X-Request-Id": "its"})["id"] == "embd-its"
    answer = embedder.ask("/v1/embeddings", {"input": "a"})
    assert len(answer["id"]) == len("embd-") + 16
    assert type(answer["created"]) is int


def test_a_conversation_equals_its_rendered_text(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(chat_template=TEMPLATE)) as server:
        rendered = "user: paris is the capital\n"
        for flags, text in (({}, rendered), ({"add_generation_prompt": True}, rendered + "bot:")):
            chat = server.ask("/v1/embeddings", {"messages": CHAT, **flags})
            plain = server.ask("/v1/embeddings", {"input": text, "add_special_tokens": False})
            np.testing.assert_allclose(vectors(chat), vectors(plain), atol=1e-6)
            assert chat["usage"] == plain["usage"]
        many = server.ask("/v1/embeddings", {"messages": [CHAT, CHAT]})
        again = server.ask("/v1/embeddings", {"input": [CHAT, CHAT]})
        assert vectors(many).shape == vectors(again).shape == (2, 64)
        parts = [{"role": "user", "content": [{"type": "text", "text": "paris is the capital"}]}]
        one = server.ask("/v1/embeddings", {"input": parts})
        np.testing.assert_allclose(vectors(one)[0], vectors(many)[0], atol=1e-6)
        continued = server.ask("/v1/embeddings", {"messages": CHAT, "continue_final_message": True})
        without = server.ask(
            "/v1/embeddings", {"input": "user: paris is the capital", "add_special_tokens": False}
        )
        np.testing.assert_allclose(vectors(continued), vectors(without), atol=1e-6)
        with_special = server.ask("/v1/embeddings", {"messages": CHAT, "add_special_tokens": True})
        assert (
            with_special["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"] - 2 + 2
            or with_special["usage"]["prompt_tokens"] > 0
        )
        assert (
            "Cannot set both"
            in server.refused(
                "/v1/embeddings",
                {"messages": CHAT, "add_generation_prompt": True, "continue_final_message": True},
            )["message"]
        )
        tokens = server.ask("/tokenize", {"messages": CHAT, "add_generation_prompt": False})
        assert tokens["count"] == server.ask("/v1/embeddings", {"messages": CHAT})["usage"]["prompt_tokens"]


def test_a_requests_template_needs_trust(models: Callable[[str], Model]):
    body = {"messages": CHAT, "chat_template": "{{ messages[0].content }}"}
    with live(models("minilm_like"), settings=Settings(chat_template=TEMPLATE)) as server:
        assert "--trust-request-chat-template is not set" in server.refused("/v1/embeddings", body)["message"]
        hidden = {"messages": CHAT, "chat_template_kwargs": {"chat_template": "x"}}
        assert (
            "--trust-request-chat-template is not set" in server.refused("/v1/embeddings", hidden)["message"]
        )
    with live(models("minilm_like"), settings=Settings(trust_request_chat_template=True)) as server:
        chat = server.ask("/v1/embeddings", body)
        plain = server.ask("/v1/embeddings", {"input": CHAT[0]["content"], "add_special_tokens": False})
        np.testing.assert_allclose(vectors(chat), vectors(plain), atol=1e-6)


@pytest.mark.parametrize(
    "template",
    ["{{ 1/0 }}", "{% for %}", "{{ messages[0].x.y }}", "{{ raise_exception('no') }}", "{{ ''.__class__ }}"],
)
def test_a_template_that_fails_is_the_callers_mistake(models: Callable[[str], Model], template):
    with live(models("minilm_like"), settings=Settings(trust_request_chat_template=True)) as server:
        server.refused("/v1/embeddings", {"messages": CHAT, "chat_template": template})


def test_a_query_of_colbert_has_markers_and_expansion(everything: Live):
    body = {"model": "colbert", "input": TEXT, "task": "token_embed"}
    plain, query, document = (
        np.array(everything.ask("/pooling", body | side)["data"][0]["data"])
        for side in ({}, {"input_type": "query"}, {"input_type": "document"})
    )
    model = next(served.model for served in everything.here.registry if served.name == "colbert")
    np.testing.assert_allclose(query, model.token_embed(TEXT, role="query").arrays[0], atol=1e-6)
    np.testing.assert_allclose(document, model.token_embed(TEXT, role="document").arrays[0], atol=1e-6)
    assert len(query) > len(plain)


def test_bge_m3_gives_dense_sparse_and_token_vectors_from_one_server(everything: Live):
    dense = everything.ask("/v1/embeddings", {"model": "bge_m3", "input": TEXT})
    assert np.isclose(np.linalg.norm(vectors(dense)[0]), 1, atol=1e-5)
    tokens = everything.ask("/tokenize", {"model": "bge_m3", "prompt": TEXT})["tokens"]
    weights = everything.ask("/pooling", {"model": "bge_m3", "input": TEXT, "task": "token_classify"})[
        "data"
    ][0]["data"]
    rows = everything.ask("/pooling", {"model": "bge_m3", "input": TEXT, "task": "token_embed"})["data"][0][
        "data"
    ]
    assert len(weights) == len(tokens) - 2
    assert len(rows) == len(tokens) - 1
    body = {"model": "bge_m3", "input": TEXT, "task": "token_classify", "encoding_format": "sparse"}
    sparse = everything.ask("/pooling", body)["data"][0]["data"]
    expected: dict[str, float] = {}
    for token, weight in zip(tokens[1:-1], weights, strict=True):
        if weight > 0:
            expected[str(token)] = max(weight, expected.get(str(token), 0))
    assert sparse == pytest.approx(expected)
    tei = everything.ask("/embed_sparse", {"model": "bge_m3", "inputs": TEXT})
    assert {str(one["index"]): one["value"] for one in tei[0]} == pytest.approx(expected)


def test_sparse_needs_a_sparse_head(embedder: Live):
    assert "sparse" in embedder.refused("/pooling", {"input": TEXT, "encoding_format": "sparse"})["message"]


def test_ids_of_another_tokenizer_name_the_flag_to_set(embedder: Live):
    # What langchain-openai sends: tiktoken's ids of a sentence, through OpenAI's library.
    foreign = [[13, 86, 92, 14, 79, 51, 23, 90, 17, 22, 85, 12, 33, 44]]
    error = embedder.refused("/v1/embeddings", {"input": foreign}, headers={"X-Stainless-Lang": "python"})
    assert "check_embedding_ctx_length=False" in error["message"]
    own = embedder.ask("/tokenize", {"prompt": TEXT})["tokens"]
    embedder.ask("/v1/embeddings", {"input": [own]}, headers={"X-Stainless-Lang": "python"})


def test_a_matryoshka_error_has_the_words_of_the_documents(embedder: Live):
    error = embedder.refused("/v1/embeddings", {"input": TEXT, "dimensions": 16})
    assert error["message"].endswith(
        "does not support matryoshka representation, changing output dimensions will lead to poor results."
    )
    assert embedder.post("/v1/embeddings", {"input": TEXT, "dimensions": 16}).json()["object"] == "error"


def test_cohere_int8_is_answered(embedder: Live):
    answer = embedder.ask("/v2/embed", {"texts": TEXTS, "embedding_types": ["int8", "uint8", "float"]})
    assert set(answer["embeddings"]) == {"int8", "uint8", "float"}
    assert len(answer["embeddings"]["int8"]) == len(TEXTS)


def test_coheres_older_api_is_answered(embedder: Live):
    plain = vectors(embedder.ask("/v1/embeddings", {"input": TEXTS}))
    floats = embedder.ask("/v1/embed", {"texts": TEXTS})
    np.testing.assert_allclose(floats["embeddings"], plain, atol=1e-6)
    assert (floats["response_type"], floats["meta"]["api_version"]["version"]) == ("embeddings_floats", "1")
    typed = embedder.ask("/v1/embed", {"texts": TEXTS, "embedding_types": ["float", "ubinary"]})
    assert (set(typed["embeddings"]), typed["response_type"]) == ({"float", "ubinary"}, "embeddings_by_type")


def test_truncation_is_told_in_a_header(embedder: Live):
    body = {"input": ["planet " * 200, "a"], "truncate_prompt_tokens": 10}
    assert embedder.post("/v1/embeddings", body).headers["x-truncated"] == "1"
    assert "x-truncated" not in embedder.post("/v1/embeddings", {"input": "a"}).headers


def test_times_are_told_in_headers(embedder: Live):
    headers = embedder.post("/v1/embeddings", {"input": TEXTS}).headers
    total, *parts = (
        float(headers[name])
        for name in ("x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time")
    )
    # Each lies within the whole; queueing begins before tokenising is known to have ended, so their sum need
    # not. Rounded to 0.1 ms.
    assert 0 <= min(parts) <= max(parts) <= total + 0.1
    assert int(headers["x-compute-tokens"]) == 20
