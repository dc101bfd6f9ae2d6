"""A refusal begins with a sentence that a person can act on, in the same shape on every route."""

from __future__ import annotations

import re
from typing import Any

import pytest
from poolrt.serve.app import routes
from poolrt.serve.endpoints.routes import MODELS, ROUTES
from poolrt.serve.errors import ApiError
from poolrt.serve.schema import tei, vllm
from poolrt.serve.schema.body import Body
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live

SLIPS: list[tuple[Body, dict[str, Any], str]] = [
    (vllm.EMBEDDINGS, {"inputs": "x"}, "`inputs` is unknown here, did you mean `input`?"),
    (vllm.CLASSIFY, {"inputs": "x"}, "`inputs` is unknown here, did you mean `input`?"),
    (vllm.POOLING, {"Input": "x", "task": "embed"}, "`Input` is unknown here, did you mean `input`?"),
    (
        vllm.POOLING,
        {"message": [{"role": "user", "content": "x"}]},
        "`message` is unknown here, did you mean `messages`?",
    ),
    (vllm.RERANK, {"query": "a", "docs": ["b"]}, "`docs` is unknown here, did you mean `documents`?"),
    (vllm.RERANK, {"queries": "a", "documents": ["b"]}, "`queries` is unknown here, did you mean `query`?"),
    (vllm.SCORE, {"query": "a", "documents": ["b"]}, "`query` is unknown here, did you mean `queries`?"),
    (vllm.DETOKENIZE, {"token": [1]}, "`token` is unknown here, did you mean `tokens`?"),
    (tei.EMBED, {"input": "a"}, "`input` is unknown here, did you mean `inputs`?"),
    (tei.DECODE, {"id": [1]}, "`id` is unknown here, did you mean `ids`?"),
]
SENTENCES: list[tuple[Body, Any, str]] = [
    (vllm.EMBEDDINGS, [], "the body is a list, expected a JSON object with `input`, or `messages`"),
    (vllm.EMBEDDINGS, {}, "`input` is missing: send `input`, or `messages`"),
    (
        vllm.EMBEDDINGS,
        {"colour": "x"},
        "`input` is missing: send `input`, or `messages`; unknown here: `colour`",
    ),
    (vllm.EMBEDDINGS, {"input": 5}, "`input`: expected a list or a text, found 5"),
    (vllm.EMBEDDINGS, {"input": ["a", 1]}, "`input.1`: expected a text, found 1"),
    (vllm.EMBEDDINGS, {"input": None}, "`input`: expected a list or a text, found null"),
    (vllm.EMBEDDINGS, {"messages": [{"content": "x"}]}, "`messages.0.role` is missing"),
    (
        vllm.EMBEDDINGS,
        {"input": "a", "truncate_prompt_tokens": 5.5},
        "`truncate_prompt_tokens`: expected a whole number, found 5.5",
    ),
    (
        vllm.EMBEDDINGS,
        {"input": "a", "use_activation": "x"},
        "`use_activation`: expected true or false, found 'x'",
    ),
    (vllm.RERANK, {"query": "a", "documents": [{"txt": "b"}]}, "`documents.0.text` is missing"),
    (
        vllm.RERANK,
        {"query": ["a"], "documents": ["b"]},
        "`query`: expected a text or an object, found a list",
    ),
    (vllm.RERANK, {}, "`query` and `documents` are missing"),
    (vllm.SCORE, {"data_1": "a", "text_2": "b"}, "`data_2` is missing: send `queries` and `documents`, or"),
    (vllm.COHERE, {"text": ["a"]}, "must be non-empty; `text` is unknown here, did you mean `texts`?"),
]


def refusal(body: Body, value: Any) -> str:
    with pytest.raises(ApiError) as caught:
        body.read(value)
    return str(caught.value)


@pytest.mark.parametrize(("body", "value", "told"), [*SLIPS, *SENTENCES], ids=lambda value: None)
def test_the_first_line_says_what_to_change(body: Body, value: Any, told: str):
    first, *rest = refusal(body, value).split("\n")
    assert told in first
    assert "{" not in first
    assert re.fullmatch(r"\d+ validation errors?:", rest[0])
    assert len(rest) == len(set(rest)), "a problem is told once"


def test_a_choice_is_told_with_its_values():
    told = refusal(vllm.EMBEDDINGS, {"input": "a", "encoding_format": "bad"})
    assert told.startswith(
        "`encoding_format`: expected 'float', 'base64', 'bytes' or 'bytes_only', found 'bad'\n"
    )
    assert "literal_error" in told  # what vLLM's clients look for


@pytest.mark.parametrize(
    "value",
    [
        {"x" * 10**6: 1},
        {f"field {n}": n for n in range(10**4)},
        {"input": "x" * 10**6, "user": 5},
        [1] * 10**6,
    ],
)
def test_a_sentence_is_short_whatever_was_sent(value: Any):
    assert len(refusal(vllm.EMBEDDINGS, value).split("\n")[0]) < 600


FLAT = ("object", "message", "type", "param", "code")

POSTED = [route.path for route in ROUTES if route.methods == ("POST",) and route.is_on(Settings())]


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize("body", [[], {"model": "nobody", "input": "a"}], ids=["no object", "unknown model"])
def test_every_route_tells_errors_in_one_shape(everything: Live, path: str, body: Any):
    got = everything.post(path, body)
    told = got.json()
    assert got.status_code in (400, 404, 422)
    assert (told["object"], told["code"]) == ("error", got.status_code)
    assert all(key in told for key in FLAT)
    inner = told["error"]
    assert told["message"] == (inner if isinstance(inner, str) else inner["message"])


def test_a_route_that_no_model_can_answer_says_which_there_are(embedder: Live):
    for path in ("/classify", "/predict"):
        got = embedder.post(path, {"input": "a"})
        told = got.json()
        assert (got.status_code, told["detail"]) == (404, "Not Found")
        assert told["message"].startswith(
            f"no model served here can answer {path}: `minilm_like` can embed and "
            "token_embed. This server has "
        )
        there = told["message"].rpartition("has ")[2].split(", ")
        assert {"/v1/embeddings", "/pooling", "/score", "/rerank"} <= set(there)
        assert not {"/classify", "/predict", "/embed_sparse"} & set(there)
        for other in there:
            assert embedder.post(other, {}).status_code in (400, 422)


def test_info_counts_texts_and_requests(everything: Live):
    told, settings = everything.client.get("/info").json(), everything.here.settings
    assert (told["max_client_batch_size"], told["max_concurrent_requests"]) == (
        settings.max_items,
        settings.max_connections,
    )


def test_requests_without_a_key_are_counted(models):
    from tests.serve.conftest import live

    with live(models("minilm_like"), settings=Settings(api_keys=("k",))) as server:
        for path in ("/v1/models", "/v1/models", "/made-up-by-a-client", "/health"):
            server.client.get(path)
        told = server.client.get("/metrics", headers={"Authorization": "Bearer k"}).text
    assert re.search(r'http_requests_total\{handler="/v1/models",method="GET",status="4xx"\} 2\.0', told)
    assert re.search(r'http_requests_total\{handler="none",method="GET",status="4xx"\} 1\.0', told)
    assert "made-up" not in told


def test_every_route_of_the_models_is_claimed():
    others = {"/tokenize", "/detokenize", "/invocations", "/decode", "/v1/tokenize", "/v1/detokenize"}
    others |= {"/api/embed", "/api/embeddings", "/api/show", "/api/pull"}
    assert {route.path for route in MODELS} | others == set(POSTED)
    assert {route.path for route in MODELS} <= {route.path for route in routes(Settings())}
