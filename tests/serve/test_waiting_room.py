"""The port is open while checkpoints are exported, and probes say how far that is."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from poolrt.runtime.errors import CheckpointError
from poolrt.serve import cli
from poolrt.serve.process import startup
from poolrt.serve.process.progress import Progress
from poolrt.serve.process.waiting_room import waiting_room
from poolrt.serve.settings import Settings

from tests.serve.chromium import Page

EXPORT = """
import os, sys, time
print("plan:", file=sys.stderr)
print("[2/7] trace to ONNX ...", file=sys.stderr, flush=True)
print("the result", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("[2/7] trace to ONNX: 3.0 s", file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""
SOON_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextmanager
def bound() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def up(client: httpx.Client) -> bool:
    try:
        return client.get("/live").status_code == 200
    except httpx.TransportError:
        return False


def test_probes_and_routes_say_how_far_the_export_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(api_keys=("secret",), root_path="/api")
    key = {"Authorization": "Bearer secret"}
    progress = Progress()
    with bound() as sock, waiting_room(settings, [sock], progress):
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        program = [sys.executable, "-c", EXPORT, str(tmp_path / "go"), "0"]
        codes: list[tuple[int, str]] = []
        export = threading.Thread(target=lambda: codes.append(progress.run(program)))
        export.start()
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: up(client))
            until(lambda: "number" in client.get("/ready").json())
            for path in ("/ready", "/health", "/ping", "/api/ready"):
                response = client.get(path)
                assert response.status_code == 503
                assert response.headers["Retry-After"] == "5"
                body = response.json()
                assert {name: body[name] for name in ("status", "step", "number", "of")} == {
                    "status": "preparing",
                    "step": "trace to ONNX",
                    "number": 2,
                    "of": 7,
                }
                assert 0 <= body["step_seconds"] <= body["seconds"]
            assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 401
            response = client.post("/v1/embeddings", json={"input": "a"}, headers=key)
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "5"
            assert "trace to ONNX" in response.json()["error"]["message"]
            assert client.get("/metrics", headers=key).status_code == 503
        (tmp_path / "go").touch()
        export.join(SOON_S)
        assert codes == [(0, "see above")]
    captured = capfd.readouterr()
    assert captured.out == "", "standard output belongs to whoever started the server"
    assert "[2/7] trace to ONNX ..." in captured.err
    assert "the result" in captured.err


def test_a_browser_gets_the_page_which_says_how_far_the_export_is(browser: Page, tmp_path: Path) -> None:
    progress = Progress()
    program = [sys.executable, "-c", EXPORT, str(tmp_path / "go"), "0"]
    export = threading.Thread(target=lambda: progress.run(program))
    with bound() as sock, waiting_room(Settings(), [sock], progress):
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        export.start()
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: up(client))
            assert client.get("/").status_code == 503, "a program takes 200 for a server that is ready"
        browser.open(url)
        browser.until("document.querySelector('#answer').innerText.includes('trace to ONNX, step 2 of 7')")
        (tmp_path / "go").touch()
        export.join(SOON_S)


def test_the_sockets_stay_open_behind_it() -> None:
    """A client that connects when the room is closed and the server not yet there waits in the socket."""
    with bound() as sock:
        with (
            waiting_room(Settings(), [sock], Progress()),
            httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=60) as client,
        ):
            until(lambda: up(client))
        with socket.create_connection(sock.getsockname(), timeout=SOON_S):
            accepted, _ = sock.accept()
            accepted.close()


def test_what_an_export_says_is_lines_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "go").touch()
    program = [sys.executable, "-c", EXPORT, str(tmp_path / "go"), "0"]
    with caplog.at_level("INFO", "poolrt.serve"):
        assert Progress(as_log=True).run(program) == (0, "see above")
    assert {"plan:", "[2/7] trace to ONNX ...", "the result"} <= set(caplog.messages)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_failed_export_ends_the_command_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "go").touch()

    def models_of(options: object, settings: Settings, *, run: Callable[..., tuple[int, str]]) -> None:
        code, reason = run([sys.executable, "-c", EXPORT, str(tmp_path / "go"), "3"])
        error = CheckpointError(f"exporting it failed (exit code {code}): {reason}")
        error.exit_code = code
        raise error

    monkeypatch.setattr(startup, "models_of", models_of)
    assert cli.serve(["some/checkpoint", "--port", "0"]) == 3
    assert "exporting it failed (exit code 3): see above" in capfd.readouterr().err


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_export_too(
    sign: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(sign, signal.SIG_DFL)  # nohup ignores SIGHUP, and so does what it starts
    children: list[int] = []

    def models_of(options: object, settings: Settings, *, run: Callable[..., tuple[int, str]]) -> None:
        progress: Progress = run.__self__  # type: ignore[attr-defined]

        def kill() -> None:
            until(lambda: progress._child is not None)
            assert progress._child is not None
            children.append(progress._child.pid)
            os.kill(os.getpid(), sign)

        threading.Thread(target=kill).start()
        run([sys.executable, "-c", EXPORT, str(tmp_path / "never"), "0"])

    monkeypatch.setattr(startup, "models_of", models_of)
    try:
        assert cli.serve(["some/checkpoint", "--port", "0"]) == 130
    finally:
        signal.signal(sign, before)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)
