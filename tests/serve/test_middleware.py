"""Layers of the operator's own: what vLLM's users put around their server keeps guarding it here."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.model import Model
from poolrt.serve.app import create_app
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.http.middleware import imported
from poolrt.serve.models.registry import Registry
from poolrt.serve.settings import Settings
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse

from tests.serve.cases import TEXT, TEXTS
from tests.serve.conftest import live
from tests.serve.test_operations import SOON_S, held, until

BODY = {"input": TEXT}


class Badge:
    """Pure ASGI: nobody passes without a badge, not even to a route that needs no key."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"x-badge", b"yes") not in scope["headers"]:
            await PlainTextResponse("no badge", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Reader(BaseHTTPMiddleware):
    """Reads each body before the application does."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        length = len(await request.body())
        answer = await call_next(request)
        answer.headers["x-read"] = str(length)
        return answer


async def mark(request: Any, call_next: Any) -> Any:
    answer = await call_next(request)
    answer.headers["x-mark"] = request.headers.get("x-badge", "none")
    return answer


async def order(request: Any, call_next: Any) -> Any:
    answer = await call_next(request)
    answer.headers["x-mark"] = answer.headers.get("x-mark", "") + " then order"
    return answer


async def fails(request: Any, call_next: Any) -> Any:
    raise RuntimeError("secret")


def nothing() -> None:
    pass


def plain(app: Any) -> None:
    pass


class Choosy:
    def __init__(self, app: Any, colour: str) -> None:
        pass


@pytest.mark.parametrize(
    "given",
    [(Badge,), (Badge, Reader), (Reader, mark, Badge)],
    ids=lambda given: "-".join(one.__name__ for one in given),
)
def test_a_layer_guards_every_route(models: Callable[[str], Model], given: Any):
    with live(models("minilm_like"), settings=Settings(middleware=given)) as server:
        for path in ("/health", "/v1/models", "/nothing"):
            assert server.client.get(path).status_code == 403
        assert server.post("/v1/embeddings", BODY).text == "no badge"
        passed = server.post("/v1/embeddings", BODY, headers={"X-Badge": "yes"})
        assert len(passed.json()["data"]) == 1


def test_the_last_layer_given_is_the_outermost(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(middleware=(mark, order))) as server:
        assert server.client.get("/health", headers={"X-Badge": "a"}).headers["x-mark"] == "a then order"
    with live(models("minilm_like"), settings=Settings(middleware=(order, mark))) as server:
        assert server.client.get("/health", headers={"X-Badge": "a"}).headers["x-mark"] == "a"


@pytest.mark.parametrize("given", [(Reader,), (mark,), (Reader, mark)], ids=["class", "function", "both"])
def test_answers_and_refusals_stay_what_they_are(models: Callable[[str], Model], embedder: Any, given: Any):
    with live(
        models("minilm_like"), settings=Settings(middleware=given, api_keys=("k",), max_body_bytes=5000)
    ) as server:
        key = {"Authorization": "Bearer k"}
        for content in (json.dumps({"input": TEXTS * 10}).encode(), b"{", b""):
            ours = server.client.post(
                "/v1/embeddings", content=content, headers=key | {"Content-Type": "application/json"}
            )
            plain = embedder.client.post(
                "/v1/embeddings", content=content, headers={"Content-Type": "application/json"}
            )
            assert ours.status_code == plain.status_code
            assert ours.json().get("data") == plain.json().get("data")
        assert server.post("/v1/embeddings", BODY).status_code == 401
        assert server.post("/v1/embeddings", {"input": "a" * 6000}, headers=key).status_code == 413
        with ThreadPoolExecutor(8) as threads:
            found = list(
                threads.map(lambda _: server.post("/v1/embeddings", BODY, headers=key).status_code, range(40))
            )
        assert set(found) == {200}
        until(lambda: server.here.state.in_flight == 0)


@pytest.mark.parametrize("given", [(Reader,), (mark, Badge)], ids=["reads", "function"])
def test_work_of_a_client_that_left_is_not_done_behind_layers_either(
    artifacts: Callable[[str], Path], given: Any
):
    badge = {"X-Badge": "yes"}
    with (
        held(artifacts("minilm_like"), Settings(middleware=given)) as (server, gate),
        ThreadPoolExecutor(1) as threads,
    ):
        model = server.here.registry.models[0].model
        first = threads.submit(lambda: server.post("/v1/embeddings", BODY, headers=badge))
        assert gate.entered.wait(SOON_S)
        body = json.dumps({"input": TEXTS}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX-Badge: yes\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            leaver.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            until(lambda: model.statistics().queued_items == len(TEXTS))
        until(lambda: model.statistics().queued_items == 0)
        gate.go.set()
        assert first.result(SOON_S).status_code == 200


def test_a_fault_of_a_layer_is_a_500_that_says_nothing(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(middleware=(fails,))) as server:
        got = server.client.get("/health")
        assert got.status_code == 500
        assert "secret" not in got.text


def test_the_flag_is_given_once_for_each_layer(tmp_path: Path):
    name = __name__
    asked, notes = parse(["--middleware", f"{name}.mark", "--middleware", f"{name}.Badge", "m"])
    assert settings_of(asked).middleware == (mark, Badge)
    assert notes == []
    (tmp_path / "c.json").write_text(
        json.dumps({"model": "m", "middleware": [f"{name}.mark", f"{name}.order"]})
    )
    assert settings_of(parse(["--config", str(tmp_path / "c.json")])[0]).middleware == (mark, order)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Badge", "expected module.Name, an ASGI class"),
        (
            "nowhere.at.all.Badge",
            (
                r"nowhere.at.all cannot be imported \(ModuleNotFoundError: No module named "
                r"'nowhere'\); install it"
            ),
        ),
        (".Badge", "cannot be imported"),
        (f"{__name__}.Missing", "found nothing of that name, expected an ASGI class"),
        (f"{__name__}.nothing", "found a function, expected an ASGI class"),
        (f"{__name__}.BODY", "found a dict, expected"),
    ],
)
def test_a_layer_that_cannot_be_is_told_at_the_start(
    name: str, told: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(InputError, match=told):
        imported(name)
    assert serve(["m", "--middleware", name]) == EXIT_INPUT
    assert capsys.readouterr().err.startswith(f"poolrt serve: --middleware {name}: ")


def test_a_class_that_wants_more_than_the_application_is_told():
    with pytest.raises(InputError, match=r"a layer could not be made \(TypeError: .*colour"):
        create_app(Registry([]), Settings(middleware=(Choosy,)))
