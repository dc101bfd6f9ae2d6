"""What poolrt.ray is made of, as far as it needs no Ray; tests/ray has the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import InputError, load
from poolrt.serve.app import create_app
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.ray.application import Options, _artifacts, _options
from poolrt.serve.ray.exchange import Exchange, beginning, parsed
from poolrt.serve.ray.in_process import InProcess
from poolrt.serve.ray.sticky import weight
from poolrt.serve.settings import Settings
from starlette.types import Receive, Scope, Send

JSON = ((b"content-type", b"application/json"),)


def post(path: str, body: dict[str, Any]) -> Exchange:
    return Exchange(method="POST", path=path, query=b"", headers=JSON, body=json.dumps(body).encode())


def test_an_application_without_a_server_responds_as_the_runtime_does(
    artifacts: Callable[[str], Path],
) -> None:
    async def responses() -> tuple[Any, Any]:
        registry = Registry([Served(names=("m",), open=lambda: load(artifacts("minilm_like")))])
        registry.open()
        server = InProcess(create_app(registry, Settings()))
        await server.start()
        several = await asyncio.gather(
            *(server.respond(post("/v1/embeddings", {"input": text})) for text in ("a", "b"))
        )
        refused = await server.respond(post("/v1/embeddings", {"input": "a", "model": "other"}))
        await server.stop()
        return several, refused

    (first, second), refused = asyncio.run(responses())
    vectors = [json.loads(response.body)["data"][0]["embedding"] for response in (first, second)]
    with load(artifacts("minilm_like")) as model:
        np.testing.assert_allclose(vectors, np.asarray(model.embed(["a", "b"])), atol=1e-6)
    assert (first.status, refused.status) == (200, 404)
    assert dict(first.headers)[b"content-type"] == b"application/json"


def test_a_client_that_goes_away_is_seen_by_the_application() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        seen.append((await receive())["type"])

    async def cancelled() -> None:
        running = asyncio.ensure_future(InProcess(app).respond(post("/", {})))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(cancelled())
    assert seen == ["http.disconnect"]


def test_an_application_that_cannot_start_says_why() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    with pytest.raises(RuntimeError, match="no model"):
        asyncio.run(InProcess(app).start())


@pytest.mark.parametrize(
    ("request_body", "prompt"),
    [
        ({"query": "q", "documents": ["a"]}, "q"),
        ({"instruction": "Judge. ", "query": "q", "documents": ["a"]}, "Judge. q"),
        ({"text_1": ["left", "other"], "text_2": ["b"]}, '["left"]'),
        ({"input": "x" * 5000}, "x" * 2048),
        ({"input": [[1, 2]]}, "[[1, 2]]"),
        ({}, ""),
    ],
)
def test_requests_of_one_query_begin_alike(request_body: dict[str, Any], prompt: str) -> None:
    assert beginning(request_body) == prompt


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"text", b"\xff{"])
def test_a_body_that_is_no_object_is_passed_on(body: bytes) -> None:
    assert parsed(body) == {}


def test_options_come_from_arguments_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLRT_RAY_MAX_REPLICAS", "9")
    monkeypatch.setenv("POOLRT_RAY_STICKY", "1")
    chosen = _options({"num_cpus": "0.5", "max_replicas": None})
    assert chosen == Options(num_cpus=0.5, sticky=True, max_replicas=9)
    with pytest.raises(InputError, match="no such option: cpus"):
        _options({"cpus": 1})
    with pytest.raises(InputError, match="replicas is 'many'"):
        _options({"replicas": "many"})
    assert _artifacts("a,n=b,m=b") == {"a": [], "b": ["n", "m"]}
    assert _artifacts({"n": "b"}) == {"b": ["n"]}
    with pytest.raises(InputError, match="POOLRT_RAY_ARTIFACTS"):
        _artifacts(None)


def test_requests_that_begin_alike_go_to_one_replica() -> None:
    names = [f"replica-{number}" for number in range(8)]
    homes = {prompt: min(names, key=lambda name: weight(prompt, name)) for prompt in map(str, range(2000))}
    counts = [list(homes.values()).count(name) for name in names]
    assert min(counts) > 180
    # A replica goes: only what was there moves.
    rest = names[1:]
    moved = [
        prompt for prompt, home in homes.items() if min(rest, key=lambda name: weight(prompt, name)) != home
    ]
    assert {homes[prompt] for prompt in moved} == {names[0]}
