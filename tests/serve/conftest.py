"""Live servers on free loopback ports, in a thread of the test process: real HTTP,
real models, nothing mocked."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from poolrt.runtime.loader import load
from poolrt.runtime.model import Model
from poolrt.serve.app import create_app
from poolrt.serve.context import Context
from poolrt.serve.models.adapters import AdapterExporter
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.process.server import Server, uvicorn_options
from poolrt.serve.settings import Settings

from tests.serve.chromium import Page, executable

GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Live:
    client: httpx.Client
    here: Context
    app: Any
    server: Server
    port: int

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def ask(self, path: str, body: Any, **more: Any) -> Any:
        """The JSON of an answer that must be a 200."""
        got = self.post(path, body, **more)
        assert got.status_code == 200, got.text
        return got.json()

    def refused(self, path: str, body: Any, status: int = 400, **more: Any) -> dict[str, Any]:
        """The error of an answer that must have that status."""
        got = self.post(path, body, **more)
        assert got.status_code == status, got.text
        return got.json()["error"]


@contextmanager
def live(
    *models: Model, settings: Settings | None = None, names: tuple[str, ...] = (), tracing: Any = None
) -> Iterator[Live]:
    """Serves opened models; they are not closed with it."""
    settings = settings or Settings()
    given = names or tuple(model.name for model in models)
    registry = Registry(
        [
            Served(names=(name,), open=functools.partial(lambda one: one, model))
            for name, model in zip(given, models, strict=True)
        ],
        check_names=settings.check_model_name,
    )
    registry.open()
    with serving(registry, settings, tracing=tracing) as made:
        yield made


@contextmanager
def serving(
    registry: Registry,
    settings: Settings,
    *,
    adapters: AdapterExporter | None = None,
    owns_models: bool = False,
    tracing: Any = None,
    **options: Any,
) -> Iterator[Live]:
    """Serves what a registry holds, opened or not; `options` are those of create_app."""
    app = create_app(registry, settings, adapters, tracing=tracing, **options)
    app.state.owns_models = owns_models
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        options = uvicorn_options(settings, refused=app.state.context.metrics.refused)
        server = Server(uvicorn.Config(app, **options), app.state.context)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{settings.root_path}", timeout=60) as client:
            while not server.started and thread.is_alive():
                thread.join(0.01)
            yield Live(client, app.state.context, app, server, port)
        server.should_exit = True
        thread.join(GRACE_S)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def models(artifacts: Callable[[str], Path]) -> Iterator[Callable[[str], Model]]:
    """`models("minilm_like")`: that artifact opened once."""
    opened: dict[str, Model] = {}

    def find(name: str) -> Model:
        if name not in opened:
            opened[name] = load(artifacts(name), threads=1, check="quick")
        return opened[name]

    yield find
    for model in opened.values():
        model.close()


@pytest.fixture(scope="session")
def embedder(models: Callable[[str], Model]) -> Iterator[Live]:
    with live(models("minilm_like")) as made:
        yield made


@pytest.fixture(scope="session")
def everything(models: Callable[[str], Model]) -> Iterator[Live]:
    """One server with a model of every kind."""
    names = ("bge_m3", "minilm_like", "bert_cross_encoder", "bert_classifier", "bert_tokens", "colbert")
    with live(*(models(name) for name in names)) as made:
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = executable()
    if program is None:
        pytest.skip("no Chromium on this machine: install chromium, or name one in POOLRT_CHROMIUM")
    with Page(program, tmp_path_factory.mktemp("profile")) as page:
        yield page
