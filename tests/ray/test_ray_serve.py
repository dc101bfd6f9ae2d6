"""poolrt.ray on a real Ray Serve: models by name, and a replica that is killed under load."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

PORT = 18765
LOAD = 8
"""Clients, each with one request at a time."""
LOAD_S = 20.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": PORT})
    yield
    serve.shutdown()
    ray.shutdown()


def ask(path: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def replicas(application: str) -> list[int]:
    """The process of each replica. Ray writes what an actor is into its command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if title.startswith(f"ray::ServeReplica:{application}:poolrt".encode()):
            found.append(int(path.parent.name))
    return found


def test_no_request_is_lost_when_a_replica_is_killed(
    cluster: None, artifacts: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    artifact = artifacts("minilm_like")
    serve.run(poolrt.ray.app([str(artifact)], replicas=2, num_cpus=0.5, fronts=1), name="kill")
    with load(artifact) as model:
        expected = np.asarray(model.embed(["hello"]))[0]
    statuses: list[int] = []
    longest: list[float] = []
    ending = threading.Event()

    def client() -> None:
        while not ending.is_set():
            begun = time.monotonic()
            status, body = ask("/v1/embeddings", {"input": "hello"})
            longest.append(time.monotonic() - begun)
            statuses.append(status)
            if status == 200:
                np.testing.assert_allclose(body["data"][0]["embedding"], expected, atol=1e-6)

    before = replicas("kill")
    assert len(before) == 2
    clients = [threading.Thread(target=client) for _ in range(LOAD)]
    for thread in clients:
        thread.start()
    time.sleep(LOAD_S / 4)
    os.kill(before[0], signal.SIGKILL)
    time.sleep(LOAD_S * 3 / 4)
    ending.set()
    for thread in clients:
        thread.join()
    with capsys.disabled():
        print(
            f"\n{len(statuses)} requests, {sum(status != 200 for status in statuses)} lost, "
            f"the longest took {max(longest):.2f} s"
        )
    assert set(statuses) == {200}
    assert set(replicas("kill")) != set(before)
    serve.delete("kill")


def test_several_models_are_found_by_name(cluster: None, artifacts: Callable[[str], Path]) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    named = {"one": str(artifacts("minilm_like")), "two": str(artifacts("bert_plain"))}
    serve.run(poolrt.ray.app(named, replicas=1, num_cpus=0.5, models_per_replica=1), name="several")
    for name in ("one", "two", "one"):
        status, body = ask("/v1/embeddings", {"input": "hello", "model": name})
        assert (status, body["model"]) == (200, name)
    assert {entry["id"] for entry in ask("/v1/models")[1]["data"]} == {"one", "two"}
    assert ask("/v1/embeddings", {"input": "hello", "model": "three"})[0] == 404
    assert ask("/metrics")[0] == 404
    serve.delete("several")


def test_sticky_requests_are_spread_over_replicas_by_their_beginning(
    cluster: None, artifacts: Callable[[str], Path]
) -> None:
    """Both replicas have requests, and each query is at home in one of them."""
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    artifact = str(artifacts("minilm_like"))
    serve.run(poolrt.ray.app([artifact], replicas=2, num_cpus=0.5, fronts=1, sticky=True), name="sticky")
    for _ in range(3):
        for number in range(8):
            assert ask("/rerank", {"query": f"query {number}", "documents": ["a"]})[0] == 200
    serve.delete("sticky")


def test_the_file_for_kuberay_is_what_serve_reads() -> None:
    import yaml
    from poolrt.serve.ray.application import Options
    from ray.serve.schema import ServeDeploySchema  # pyright: ignore[reportMissingImports]

    path = Path(__file__).parents[2] / "examples" / "ray" / "rayservice.yaml"
    service = yaml.safe_load(path.read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    [application] = ServeDeploySchema.model_validate(
        yaml.safe_load(service["spec"]["serveConfigV2"])
    ).applications
    assert application.import_path == "poolrt.ray:build"
    assert {"artifacts", "flags"} < set(application.args)
    known = set(Options.__dataclass_fields__) | {"artifacts", "flags", "autoscaling_config"}
    assert set(application.args) <= known
    cluster = service["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(g["template"] for g in cluster["workerGroupSpecs"])]
    for template in templates:
        [container] = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
