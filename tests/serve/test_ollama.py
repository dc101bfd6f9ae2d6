"""The wire of Ollama, and the entry of one model."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from poolrt.runtime.model import Model

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live

MODEL = "minilm_like"


def test_embed_returns_unit_vectors_of_the_model(everything: Live, models: Callable[[str], Model]) -> None:
    answer = everything.ask("/api/embed", {"model": MODEL, "input": TEXTS})
    outputs = models(MODEL).embed(TEXTS)
    np.testing.assert_allclose(answer["embeddings"], np.asarray(outputs), atol=1e-5)
    assert answer["model"] == MODEL
    assert answer["prompt_eval_count"] == outputs.prompt_tokens
    assert answer["total_duration"] > answer["load_duration"] == 0
    single = everything.ask("/api/embed", {"model": MODEL, "input": TEXTS[0]})
    np.testing.assert_allclose(single["embeddings"], np.asarray(outputs)[:1], atol=1e-5)


def test_the_older_route_returns_the_vector_of_one_prompt(
    everything: Live, models: Callable[[str], Model]
) -> None:
    answer = everything.ask("/api/embeddings", {"model": MODEL, "prompt": TEXTS[0]})
    np.testing.assert_allclose([answer["embedding"]], np.asarray(models(MODEL).embed(TEXTS[0])), atol=1e-5)


def test_long_texts_are_cut_unless_the_client_refuses_it(
    everything: Live, models: Callable[[str], Model]
) -> None:
    text = "planet " * 300
    cut = models(MODEL).embed(text, truncate_prompt_tokens=-1)
    answer = everything.ask("/api/embed", {"model": MODEL, "input": text})
    np.testing.assert_allclose(answer["embeddings"], np.asarray(cut), atol=1e-5)
    older = everything.ask("/api/embeddings", {"model": MODEL, "prompt": text})
    np.testing.assert_allclose([older["embedding"]], np.asarray(cut), atol=1e-5)
    refused = everything.post("/api/embed", {"model": MODEL, "input": text, "truncate": False})
    assert refused.status_code == 400
    assert "reduce the length" in refused.json()["error"]


@pytest.mark.parametrize("declared", ["application/x-www-form-urlencoded", "", None])
def test_a_body_of_curls_need_not_be_declared_but_by_a_browser(
    everything: Live, declared: str | None
) -> None:
    content = json.dumps({"model": MODEL, "input": "a"}).encode()
    headers = {} if declared is None else {"content-type": declared}
    answer = everything.client.post("/api/embed", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    for path, more in (("/api/embed", {"origin": "https://elsewhere.example"}), ("/v1/embeddings", {})):
        refused = everything.client.post(path, content=content, headers={**headers, **more})
        assert refused.status_code == 400
        assert "application/json" in refused.text


def test_what_ollamas_clients_send_besides_is_read_past(everything: Live) -> None:
    """The bodies of ollama-python 0.6, LangChain's OllamaEmbeddings and LlamaIndex's OllamaEmbedding."""
    body = {
        "model": f"{MODEL}:latest",
        "input": ["a"],
        "truncate": None,
        "dimensions": None,
        "keep_alive": "5m",
        "options": {"num_ctx": 2048, "temperature": 0.1},
    }
    assert len(everything.ask("/api/embed", body)["embeddings"]) == 1
    assert everything.ask("/api/embed", {"model": MODEL.upper(), "input": "a"})["model"] == MODEL.upper()


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}])
def test_a_request_without_text_has_no_vectors(everything: Live, body: dict[str, object]) -> None:
    """With such a one clients have a model loaded."""
    assert everything.ask("/api/embed", {"model": MODEL} | body)["embeddings"] == []
    assert everything.ask("/api/embeddings", {"model": MODEL})["embedding"] == []


def test_errors_are_texts_with_ollamas_statuses(everything: Live) -> None:
    for path, body, status, words in (
        ("/api/embed", {"model": "nobody", "input": "a"}, 404, "model 'nobody' not found"),
        ("/api/show", {"name": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/pull", {"model": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/embed", {"input": "a"}, 400, "model is required"),
        ("/api/embed", {"model": "bert_cross_encoder", "input": "a"}, 400, "makes no embeddings"),
        ("/api/embed", {"model": MODEL, "input": [1]}, 400, "input"),
        ("/api/embed", {"model": MODEL, "input": "a", "dimensions": 7}, 400, "dimensions"),
    ):
        refused = everything.post(path, body)
        assert refused.status_code == status, path
        assert words in refused.json()["error"]


def test_the_list_names_every_model_with_a_tag(everything: Live, models: Callable[[str], Model]) -> None:
    listed = everything.client.get("/api/tags").json()["models"]
    assert [model["name"] for model in listed] == [
        f"{served.name}:latest" for served in everything.here.registry
    ]
    card = next(model for model in listed if model["model"] == f"{MODEL}:latest")
    folder = models(MODEL).folder
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert 0 < card["size"] <= sum(path.stat().st_size for path in files)
    assert card["details"]["family"] == "bert"
    assert card["details"]["quantization_level"] == "F32"
    assert card["digest"] == models(MODEL).manifest.digest
    running = everything.client.get("/api/ps").json()["models"]
    assert [model["name"] for model in running] == [model["name"] for model in listed]


def test_show_tells_length_width_and_capabilities(everything: Live) -> None:
    shown = everything.ask("/api/show", {"model": f"{MODEL}:latest"})
    information = shown["model_info"]
    assert information["bert.context_length"] == everything.here.registry.find(MODEL).model.max_tokens
    assert information["bert.embedding_length"] == 64
    assert shown["capabilities"] == ["embedding"]
    assert everything.ask("/api/show", {"name": "bert_cross_encoder"})["capabilities"] == []
    assert everything.ask("/api/pull", {"model": MODEL, "stream": True}) == {"status": "success"}
    assert everything.client.get("/api/version").json() == everything.client.get("/version").json()


@pytest.mark.parametrize("base", ["/v1/models", "/models"])
def test_one_model_has_an_entry_of_its_own(everything: Live, base: str) -> None:
    entry = everything.client.get(f"{base}/{MODEL}").json()
    listed = everything.client.get("/v1/models").json()["data"]
    same = next(model for model in listed if model["id"] == MODEL)
    varying = {"created", "permission"}
    assert {key: entry[key] for key in entry if key not in varying} == {
        key: same[key] for key in same if key not in varying
    }
    refused = everything.client.get(f"{base}/BAAI/nobody")
    assert refused.status_code == 404
    assert "BAAI/nobody" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "model"
