"""OpenAI's and Cohere's clients, unchanged, with pictures, beside the answers to plain requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from poolrt.runtime import load

from tests.runtime import picture_models as tiny
from tests.serve.conftest import Live, live
from tests.serve.test_pictures import NOISE_URL, RED_URL, TEMPLATE, chat, picture, text

SAME = 1e-6  # the same numbers through JSON or base64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tiny.write(tmp_path_factory.mktemp("pictures"), name="pages", chat_template=TEMPLATE)
    with load(folder, threads=1) as model, live(model) as opened:
        yield opened


def embedding(server: Live, *parts: Any) -> Any:
    answer = server.ask("/v1/embeddings", {"messages": chat(*parts)})
    return answer["data"][0]["embedding"], answer["usage"]["prompt_tokens"]


def test_openais_client_sends_messages_beside_its_input(server: Live) -> None:
    openai = pytest.importorskip("openai")
    expected, tokens = embedding(server, picture(), text())
    body = {"model": "pages", "messages": chat(picture(), text())}
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0
    ) as client:
        answers = [
            # As vLLM's own example does it, and by the method of the client, which reads base64.
            client.post(
                "/embeddings",
                cast_to=openai.types.CreateEmbeddingResponse,
                body=body | {"encoding_format": "float"},
            ),
            client.embeddings.create(model="pages", input="passed over", extra_body=body),
        ]
        with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[0\]"):
            client.embeddings.create(
                model="pages", input="", extra_body={"messages": chat(picture("data:image/png;base64,AAAA"))}
            )
    for answer in answers:
        np.testing.assert_allclose(answer.data[0].embedding, expected, atol=SAME)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens


def test_coheres_client_sends_images_and_inputs(server: Live) -> None:
    cohere = pytest.importorskip("cohere")
    alone = [embedding(server, picture(address)) for address in (RED_URL, NOISE_URL)]
    both = embedding(server, picture(), text())
    with httpx.Client() as http:
        place: dict[str, Any] = {
            "base_url": f"http://127.0.0.1:{server.port}", "api_key": "none", "httpx_client": http,
        }  # fmt: skip
        client, older = cohere.ClientV2(**place), cohere.Client(**place)
        # The type `image` is Cohere's own for pictures.
        answer = client.embed(
            model="pages",
            input_type="image",
            images=[RED_URL, NOISE_URL],
            embedding_types=["float", "int8", "binary", "ubinary"],
        )
        mixed = client.embed(
            model="pages",
            input_type="search_document",
            inputs=[{"content": [{"type": "image_url", "image_url": {"url": RED_URL}}, text()]}],
            embedding_types=["float"],
        )
        plain = older.embed(model="pages", input_type="image", images=[RED_URL])
        with pytest.raises(cohere.BadRequestError, match=r"images\[0\]"):
            client.embed(model="pages", input_type="image", images=["data:image/png;base64,AAAA"])
        with pytest.raises(cohere.BadRequestError, match="Unsupported input_type 'image'"):
            client.embed(model="pages", input_type="image", texts=["a page"])
    np.testing.assert_allclose(answer.embeddings.float_, [values for values, _ in alone], atol=SAME)
    for row in (*answer.embeddings.binary, *answer.embeddings.ubinary):
        assert len(row) == tiny.WIDTH // 8
    assert [len(row) for row in answer.embeddings.int8] == [tiny.WIDTH] * 2
    units = answer.meta.billed_units
    assert (units.input_tokens, units.image_tokens) == (0, sum(tokens for _, tokens in alone))
    np.testing.assert_allclose(mixed.embeddings.float_, [both[0]], atol=SAME)
    assert mixed.meta.billed_units.image_tokens == both[1]
    np.testing.assert_allclose(plain.embeddings, [alone[0][0]], atol=SAME)


def test_pictures_have_a_type_of_input_beside_stored_prompts(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, name="pages", chat_template=TEMPLATE, prompts={"search_query": "query : "})
    with load(folder, threads=1) as model, live(model) as server:
        answers = [
            server.ask("/v2/embed", {"images": [RED_URL], "embedding_types": ["float"], **fields})[
                "embeddings"
            ]
            for fields in ({}, {"input_type": "image"})
        ]
        assert answers[0] == answers[1]
        error = server.refused("/v2/embed", {"texts": ["a page"], "input_type": "image"})
        assert "Supported values: search_query" in error["message"]
