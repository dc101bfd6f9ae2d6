"""poolrt.ray as docs/ray.md starts it: the real `serve run` and `serve deploy`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .clients import SAME, Client, expected, until

pytest.importorskip("ray")
yaml = pytest.importorskip("yaml")

SERVE = Path(sys.executable).with_name("serve")
START_S = 300.0
STOP_S = 60.0
HOLD_S = 5.0
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
DASHBOARD = re.compile(r"http://127\.0\.0\.1:\d+")


@contextlib.contextmanager
def running(log: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """`serve run`, stopped as Ctrl-C stops it, also where the shell started these tests in the background and
    so has them ignore it."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(SERVE), "run", *arguments],
            stdout=file, stderr=subprocess.STDOUT, env={**ENVIRONMENT, **variables}, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return client.ask("/v1/models").status == 200
        except (urllib.error.URLError, OSError, ValueError):
            return False

    until(is_ready, START_S)


def config(path: Path, port: int, artifacts: Any) -> str:
    application = {
        "name": "poolrt",
        "import_path": "poolrt.ray:build",
        "args": {"replicas": 2, "num_cpus": 0.5, "fronts": 1},
        "deployments": [{"name": "poolrt", "user_config": {"artifacts": artifacts}}],
    }
    path.write_text(yaml.safe_dump({"http_options": {"port": port}, "applications": [application]}))
    return str(path)


def test_serve_run_with_arguments_answers_as_the_runtime_does(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact, log, client = artifacts("minilm_like"), tmp_path / "log", Client(port=8000)
    with running(log, "poolrt.ray:app", f"artifacts={artifact}", "num_cpus=0.5", "fronts=1") as process:
        ready(client, process, log)
        reply = client.ask("/v1/embeddings", {"input": "hello"})
        np.testing.assert_allclose(reply.body["data"][0]["embedding"], expected(artifact), atol=SAME)
        ranked = client.ask("/rerank", {"query": "hello", "documents": ["hello", "a car"]})
        assert [result["index"] for result in ranked.body["results"]] == [0, 1]


def test_serve_deploy_swaps_artifacts_without_a_lost_request(
    artifacts: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By user_config in the same replicas; a set that cannot be opened leaves one replica at work."""
    old, new = artifacts("minilm_like"), artifacts("bert_plain")
    log, client = tmp_path / "log", Client(port=18766)

    def deploy(artifacts: Any) -> None:
        path = config(tmp_path / "other.yaml", client.port, artifacts)
        [dashboard] = set(DASHBOARD.findall(log.read_text()))
        subprocess.run([str(SERVE), "deploy", "-a", dashboard, path], check=True, env=ENVIRONMENT)

    def vector() -> Any:
        return client.ask("/v1/embeddings", {"input": "hello"}).body["data"][0]["embedding"]

    def is_swapped(artifact: Path) -> bool:
        wanted = expected(artifact)
        return all(np.allclose(vector(), wanted, atol=SAME) for _ in range(8))

    with running(log, config(tmp_path / "first.yaml", client.port, {"model": str(old)})) as process:
        ready(client, process, log)
        with client.under_load() as seen:
            time.sleep(HOLD_S)
            for artifact in (new, old):
                deploy({"model": str(artifact)})
                until(lambda artifact=artifact: is_swapped(artifact))
            deploy({"model": str(tmp_path / "missing")})
            time.sleep(2 * HOLD_S)
        assert is_swapped(old)
    with capsys.disabled():
        print(f"\nartifacts swapped twice, then a missing one: {seen.report()}")
    assert seen.lost == 0
    wanted = [expected(old), expected(new)]
    kinds = [[np.allclose(vector, own, atol=SAME) for own in wanted] for vector in seen.vectors()]
    assert all(sum(kind) == 1 for kind in kinds)
    assert {kind.index(True) for kind in kinds} == {0, 1}
    assert len({reply.replica for reply in seen.replies}) == 2  # none was started anew


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no artifact: artifacts=A,B behind `serve run poolrt.ray:app`"),
        (["artifacts=a", "cpus=2"], "no such option: cpus; there are"),
        (
            ["artifacts=a", "flags=--allow-artifact-loading"],
            "--allow-artifact-loading has no effect on Ray Serve",
        ),
    ],
    ids=["no artifact", "unknown option", "a flag of one server"],
)
def test_serve_run_refuses_wrong_arguments_at_once(arguments: list[str], message: str) -> None:
    refused = subprocess.run(
        [str(SERVE), "run", "poolrt.ray:app", *arguments],
        capture_output=True, text=True, timeout=START_S, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert refused.returncode != 0
    assert message in refused.stderr


def test_serve_run_names_an_artifact_that_is_not_there(tmp_path: Path) -> None:
    failed = subprocess.run(
        [str(SERVE), "run", "poolrt.ray:app", f"artifacts={tmp_path / 'nothing'}"],
        capture_output=True, text=True, timeout=START_S, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert f"{tmp_path / 'nothing'}: no such folder; replicas look for it" in failed.stderr
    assert f"RuntimeError: {tmp_path / 'nothing'}: no such folder on" in failed.stdout + failed.stderr
