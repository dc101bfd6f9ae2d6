"""What poolrt.ray is made of, as far as it needs no Ray; tests/ray has the rest."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import InputError, PoolrtError, load
from poolrt.serve.app import create_app
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.ray.application import Options, _options, _settings
from poolrt.serve.ray.artifacts import Entry, configured, entries
from poolrt.serve.ray.exchange import Exchange, beginning, model_of, parsed
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


def test_artifacts_are_a_text_a_list_or_a_mapping(tmp_path: Path) -> None:
    assert entries("a,n=b,m=b") == entries(["a", "n=b", "m=b"]) == (Entry("a"), Entry("b", ("n", "m")))
    assert entries({"n": "b"}) == (Entry("b", ("n",)),)
    assert entries(None) == ()
    with pytest.raises(InputError, match="two artifacts would be called n"):
        entries(["n=a", "n=b"])
    with pytest.raises(InputError, match="artifacts is 3"):
        entries(3)


def test_a_request_names_an_artifact_as_the_operator_did_or_as_it_is_called(
    artifacts: Callable[[str], Path],
) -> None:
    own, other = artifacts("minilm_like"), artifacts("bert_plain")
    table = configured({"artifacts": ["Mini=" + str(own), str(other)]})
    names = table.names
    assert (names.several, names.first) == (True, "Mini")
    assert [name for name, _ in table.listed] == ["Mini", "bert_plain"]
    for name in ("Mini", "mini:latest", "minilm_like"):
        assert names.key(name) == "Mini"
    for name in ("bert_plain", table.manifests[str(other)].source.checkpoint):
        assert names.key(name) == str(other)
    assert names.key("nothing") is None
    swapped = configured({"artifacts": {"Mini": str(other)}}).names
    assert (swapped.first, swapped.several) == ("Mini", False)
    assert swapped.digest != names.digest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"artifacts": []}, "no artifact"),
        ({"artifact": ["a"]}, "user_config is"),
        (None, "user_config is None"),
        ({"artifacts": ["/nothing/there"]}, "/nothing/there: no such folder on"),
    ],
)
def test_a_user_config_that_cannot_be_served_says_why(config: Any, message: str) -> None:
    with pytest.raises(PoolrtError, match=message):
        configured(config)


def test_two_artifacts_of_one_name_must_be_told_apart(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifacts("minilm_like"), copy)
    with pytest.raises(InputError, match="two artifacts would be called minilm_like; name them"):
        configured({"artifacts": [str(artifacts("minilm_like")), str(copy)]})


def test_flags_of_one_server_are_refused() -> None:
    for flags in (["--watch-folder", "."], ["--allow-artifact-loading"], ["--api-server-count", "2"]):
        with pytest.raises(InputError, match=f"{flags[0]} has no effect on Ray Serve"):
            _settings(flags)
    assert _settings(["--max-body-bytes", "9"]).max_body_bytes == 9


def test_the_model_of_a_request_is_in_its_body_or_its_path() -> None:
    assert model_of("/v1/embeddings", {"model": "a"}) == "a"
    assert model_of("/v1/models/a/b", {}) == "a/b"
    assert model_of("/api/show", {"name": "a"}) == "a"
    assert model_of("/v1/embeddings", {"model": 3, "name": "a"}) == ""


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
