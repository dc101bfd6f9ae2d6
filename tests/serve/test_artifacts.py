"""Artifacts are loaded, replaced and unloaded while the server runs, and no request is lost meanwhile."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.artifact.manifest import FILE
from poolrt.runtime.artifact.reading import described, sealed
from poolrt.runtime.errors import ArtifactError, InputError
from poolrt.runtime.store import home, stored
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.models import watching
from poolrt.serve.models.artifact_loading import ArtifactLoader
from poolrt.serve.models.changes import Change
from poolrt.serve.models.watching import WatchedFolder
from poolrt.serve.process.startup import models_of
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live, serving

TEXT = "the red planet"
SOON_S = 60.0


@pytest.fixture
def first(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("minilm_like")


@pytest.fixture
def second(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("bge_m3")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home" / "artifacts"


def started(*arguments: str | Path) -> Any:
    """The context manager of a server with these arguments of `poolrt serve`."""
    options, _ = parse([*map(str, arguments), "--threads", "1", "--check", "quick"])
    settings = settings_of(options)
    models = models_of(options, settings)
    return serving(
        models.registry, settings, owns_models=True, artifacts=models.artifacts, watched=models.watched
    )


@pytest.fixture(scope="module")
def server(artifacts: Callable[[str], Path]) -> Iterator[Live]:
    folder = artifacts("minilm_like")
    with started(folder, "--served-model-name", "main", "--allow-artifact-loading") as live:
        assert live.here.registry.ready.wait(SOON_S)
        yield live


@pytest.fixture
def changing(server: Live, first: Path) -> Iterator[Live]:
    """A server whose model `main` may be replaced; the next test finds it as it was."""
    yield server
    for name in names(server)[1:]:
        server.ask("/v1/artifacts/unload", {"name": name})
    if server.here.registry.models[0].model.folder != first:
        server.ask("/v1/artifacts/load", {"path": str(first), "name": "main"})


def vector(folder: Path) -> Any:
    with load(folder, threads=1, check="quick") as model:
        return model.embed(TEXT)[0].outputs.data


def embedding(live: Live, **body: Any) -> Any:
    return np.array(live.ask("/v1/embeddings", {"input": TEXT, **body})["data"][0]["embedding"])


def names(live: Live) -> list[str]:
    return [entry["id"] for entry in live.client.get("/v1/models").json()["data"]]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_requests_may_change_nothing_unless_the_operator_says_so(first: Path) -> None:
    with started(first) as live:
        assert live.here.registry.ready.wait(SOON_S)
        assert live.post("/v1/artifacts/load", {"path": str(first)}).status_code == 404
        assert live.post("/v1/artifacts/unload", {"name": "x"}).status_code == 404


def test_a_web_page_changes_nothing_of_a_server_without_a_key(changing: Live, first: Path) -> None:
    page = {"headers": {"Origin": "https://example.org"}}
    error = changing.refused("/v1/artifacts/load", {"path": str(first), "name": "x"}, 403, **page)
    assert "--api-key" in error["message"]
    changing.refused("/v1/artifacts/unload", {"name": "main"}, 403, **page)
    assert names(changing) == ["main"]


def test_an_artifact_comes_beside_the_others_and_goes(changing: Live, second: Path) -> None:
    body = changing.ask("/v1/artifacts/load", {"path": str(second), "name": "more"})
    assert (body["name"], body["replaced"], "embed" in body["tasks"]) == ("more", False, True)
    assert names(changing) == ["main", "more"]
    np.testing.assert_allclose(embedding(changing, model="more"), vector(second), atol=1e-6)
    assert 'model_name="more"' in changing.client.get("/metrics").text
    changing.ask("/v1/artifacts/unload", {"name": "more"})
    assert names(changing) == ["main"]
    assert 'poolrt_queued_tokens{engine="0",model_name="more"}' not in changing.client.get("/metrics").text
    changing.refused("/v1/embeddings", {"input": TEXT, "model": "more"}, 404)
    changing.refused("/v1/artifacts/unload", {"name": "more"}, 404)
    assert "only model" in changing.refused("/v1/artifacts/unload", {"name": "main"})["message"]


def test_a_stored_name_is_loaded_and_an_address_is_not_fetched(
    changing: Live, second: Path, store: Path
) -> None:
    shutil.copytree(second, store / "stored")
    assert changing.ask("/v1/artifacts/load", {"path": "stored", "name": "x"})["name"] == "x"
    error = changing.refused("/v1/artifacts/load", {"path": "hf://me/tiny"})
    assert "poolrt pull hf://me/tiny" in error["message"]
    error = changing.refused("/v1/artifacts/load", {"path": "stord"}, 404)
    assert "did you mean stored?" in error["message"]
    assert changing.refused("/v1/artifacts/load", {"path": "./nowhere"}, 404)
    assert changing.refused("/v1/artifacts/load", {"path": ""})


def test_replaced_it_keeps_its_place_and_names(changing: Live, first: Path, second: Path) -> None:
    old = changing.here.registry.models[0].model
    changing.ask("/v1/artifacts/load", {"path": str(first), "name": "other"})
    assert changing.ask("/v1/artifacts/load", {"path": str(second), "name": "main"})["replaced"]
    assert names(changing) == ["main", "other"]
    np.testing.assert_allclose(embedding(changing), vector(second), atol=1e-6)
    np.testing.assert_allclose(embedding(changing, model="other"), vector(first), atol=1e-6)
    until(lambda: not old._finalizer.alive)


def test_a_broken_artifact_leaves_the_old_one_serving(
    changing: Live, first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / "model.onnx").write_bytes(b"x" * (broken / "model.onnx").stat().st_size)
    manifest = described(FILE, (broken / FILE).read_bytes())
    error = changing.refused("/v1/artifacts/load", {"path": str(broken), "name": "main"})
    assert "model.onnx" in error["message"]
    (broken / "model.onnx").unlink()
    error = changing.refused("/v1/artifacts/load", {"path": str(broken), "name": "main"})
    assert "model.onnx: missing" in error["message"]
    text = sealed(replace(manifest, tasks=()))
    (broken / FILE).write_bytes(text)
    assert "tasks: none" in changing.refused("/v1/artifacts/load", {"path": str(broken)})["message"]
    np.testing.assert_allclose(embedding(changing), vector(first), atol=1e-6)
    assert any("model.onnx" in record.getMessage() for record in caplog.records)


def test_an_engine_that_fails_leaves_the_old_one_serving(
    changing: Live, first: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = changing.here.artifacts
    assert isinstance(loader, ArtifactLoader)

    def failing(folder: Path, name: str) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(loader, "_open", failing)
    error = changing.refused("/v1/artifacts/load", {"path": str(second), "name": "main"}, 500)
    assert "the device is gone" in error["message"]
    np.testing.assert_allclose(embedding(changing), vector(first), atol=1e-6)


def test_no_request_is_lost_or_refused_while_models_are_replaced(
    changing: Live, first: Path, second: Path
) -> None:
    """Eight clients ask without a pause while the model is replaced six times: every answer is that of one of
    the two models, and in the end nothing of the replaced ones is open."""
    expected = [vector(first), vector(second)]
    ended, answers = threading.Event(), []
    models = [changing.here.registry.models[0].model]

    def ask() -> None:
        import httpx

        with httpx.Client(base_url=changing.client.base_url, timeout=60) as client:
            while not ended.is_set():
                response = client.post("/v1/embeddings", json={"input": [TEXT, TEXT + " a"], "model": "main"})
                answers.append(response)

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(ask) for _ in range(8)]
        for turn in range(6):
            folder = (second, first)[turn % 2]
            assert changing.ask("/v1/artifacts/load", {"path": str(folder), "name": "main"})["replaced"]
            models.append(changing.here.registry.models[0].model)
            count = len(answers)
            until(lambda count=count: len(answers) > count + 8)
        ended.set()
        for future in futures:
            future.result(SOON_S)
    assert {response.status_code for response in answers} == {200}
    seen = set()
    for response in answers:
        data = np.array(response.json()["data"][0]["embedding"])
        distances = [np.abs(data - one).max() for one in expected]
        assert min(distances) < 1e-5
        seen.add(int(np.argmin(distances)))
    assert seen == {0, 1}
    until(lambda: not any(model._finalizer.alive for model in models[:-1]))
    assert models[-1]._finalizer.alive


def test_a_request_that_began_before_is_answered_before_the_old_model_is_closed(
    changing: Live, second: Path
) -> None:
    """Its body is on the way while the model is replaced; until it is answered, no model may be closed."""
    old = changing.here.registry.models[0].model
    body = json.dumps({"input": TEXT}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", changing.port), timeout=60) as client:
        client.sendall(head.encode() + body[:5])
        until(lambda: changing.here.state.in_flight > 0)
        changing.ask("/v1/artifacts/load", {"path": str(second), "name": "main"})
        ended = changing.here.state.epoch.before
        assert ended is not None
        assert not ended.is_over()
        assert old._finalizer.alive
        client.sendall(body[5:])
        response = b""
        while piece := client.recv(65536):
            response += piece
    assert response.startswith(b"HTTP/1.1 200")
    until(lambda: not old._finalizer.alive)


# --- a watched folder


@pytest.fixture
def folder(tmp_path: Path, first: Path) -> Path:
    """A folder with one artifact."""
    shutil.copytree(first, tmp_path / "watched" / "main")
    return tmp_path / "watched"


def test_changes_are_seen_when_they_are_whole(folder: Path, first: Path) -> None:
    watched = WatchedFolder(folder)
    assert watched.look() == []
    shutil.copytree(first, folder / "new")
    (folder / ".draft.partial").mkdir()
    (folder / "no-manifest").mkdir()
    assert watched.look() == [], "it may still be written"
    (folder / "new" / "note.txt").write_text("more")
    assert watched.look() == []
    assert watched.look() == [Change("load", "new", str(folder / "new"))]
    assert watched.look() == []
    shutil.rmtree(folder / "main")
    assert [watched.look() for _ in range(watching.PATIENCE - 1)] == [[]] * (watching.PATIENCE - 1)
    assert watched.look() == [Change("unload", "main")]
    assert watched.look() == []


def test_a_folder_that_is_gone_for_a_moment_is_not_unloaded(folder: Path) -> None:
    watched = WatchedFolder(folder)
    (folder / "main").rename(folder / ".aside")
    assert watched.look() == []
    (folder / ".aside").rename(folder / "main")
    assert [watched.look() for _ in range(4)] == [[]] * 4


def test_what_comes_changes_and_goes_in_the_folder_is_followed(
    folder: Path,
    first: Path,
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watching, "WATCH_S", 0.02)
    with started("--watch-folder", folder) as live:
        assert live.here.registry.ready.wait(SOON_S)
        assert names(live) == ["main"]
        shutil.copytree(second, folder / "more")
        until(lambda: names(live) == ["main", "more"])
        np.testing.assert_allclose(embedding(live, model="more"), vector(second), atol=1e-6)
        # A broken change leaves what is served; a whole one replaces it.
        (folder / "more" / "tokenizer.json").rename(folder / "aside.json")
        old = live.here.registry.find("more").model
        until(lambda: any("stays as it was" in record.getMessage() for record in caplog.records))
        np.testing.assert_allclose(embedding(live, model="more"), vector(second), atol=1e-6)
        shutil.copytree(first, folder / ".next")
        (folder / "more").rename(folder / ".old")
        (folder / ".next").rename(folder / "more")
        until(lambda: live.here.registry.find("more").model is not old)
        np.testing.assert_allclose(embedding(live, model="more"), vector(first), atol=1e-6)
        shutil.rmtree(folder / "more")
        until(lambda: names(live) == ["main"])
        until(lambda: not old._finalizer.alive)


def test_an_artifact_of_the_command_line_keeps_its_name_in_the_folder(folder: Path) -> None:
    options, _ = parse([str(folder / "main"), "--served-model-name", "mine", "--watch-folder", str(folder)])
    models = models_of(options, settings_of(options))
    assert [served.names for served in models.registry] == [("mine",)]
    assert models.watched is not None
    assert models.watched.names == {"main": "mine"}


def test_a_folder_that_cannot_be_watched_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, why in (
        (folder / "main", "expected the folder that holds it"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "empty", "no artifact in it"),
    ):
        with pytest.raises(InputError, match=why):
            started("--watch-folder", place)


# --- names on the command line


def test_a_stored_artifact_is_served_by_its_name(first: Path, store: Path) -> None:
    shutil.copytree(first, store / "tiny")
    stored.keep_origin("tiny", stored.Origin(address="hf://me/tiny"))
    options, _ = parse(["tiny"])
    registry = models_of(options, Settings()).registry
    registry.open()
    (served,) = registry
    assert served.names == ("tiny",)
    assert "minilm_like" in served.aliases
    registry.close()
    options, _ = parse(["hf://me/tiny", "--served-model-name", "b=hf://me/tiny"])
    (served,) = models_of(options, Settings()).registry
    assert served.names == ("b",)
    options, _ = parse(["tyni"])
    with pytest.raises(ArtifactError, match=r"did you mean tiny\?"):
        models_of(options, Settings())
